// A chapter as slides: objectives, figures, tables, verdicts, summary and exercises, one a screen.
// They are copies of what the page shows, so both always say the same.
(() => {
  "use strict";

  const SHOWN = [
    "figure",
    ".cell_output img",
    ".cell_output .table-frame",
    ".cell_output table.dataframe",
    ".verdict",
    "section#summary > ul",
    ".admonition.exercise",
  ].join(", ");

  // What a copy must not bring: names that exist once, links to itself, and answers.
  const LEFT_OUT = ".headerlink, .table-tools, script, .solution, .toggle-button";

  const copy = (node) => {
    const copied = node.cloneNode(true);
    for (const part of copied.querySelectorAll(LEFT_OUT)) part.remove();
    for (const part of [copied, ...copied.querySelectorAll("[id]")]) part.removeAttribute("id");
    for (const part of copied.querySelectorAll("details")) part.open = true;
    return copied;
  };

  const heading = (node) => {
    const section = node.closest("section");
    return section?.querySelector("h1, h2, h3")?.firstChild?.textContent.trim() ?? "";
  };

  const slide = (title, content, place) => {
    const made = document.createElement("section");
    made.className = "slide";
    const top = document.createElement("h2");
    top.textContent = title;
    const body = document.createElement("div");
    body.className = "slide-body";
    body.append(...content);
    made.append(top, body);
    made.place = place;
    return made;
  };

  const collect = (article) => {
    const first = article.querySelector("h1");
    const objectives = article.querySelector(".admonition");
    const slides = [slide(heading(first), objectives ? [copy(objectives)] : [], first)];
    for (const node of article.querySelectorAll(SHOWN)) {
      // A figure holds its image, a frame its table: each is shown once.
      if (!node.parentElement.closest(SHOWN)) slides.push(slide(heading(node), [copy(node)], node));
    }
    return slides;
  };

  const start = (article) => {
    const slides = collect(article);
    const stage = document.createElement("div");
    stage.className = "slides";
    stage.tabIndex = -1;
    const bar = document.createElement("div");
    bar.className = "slides-bar";
    const count = document.createElement("span");
    count.setAttribute("aria-live", "polite");
    let at = 0;

    const show = (wanted) => {
      at = Math.max(0, Math.min(wanted, slides.length - 1));
      slides.forEach((s, i) => s.classList.toggle("current", i === at));
      count.textContent = `${at + 1} / ${slides.length}`;
    };
    const stop = () => {
      document.removeEventListener("keydown", press);
      document.body.classList.remove("has-slides");
      stage.remove();
      slides[at].place.scrollIntoView({ block: "center" });
      document.querySelector(".slides-start").focus({ preventScroll: true });
    };
    const keys = {
      ArrowRight: () => show(at + 1),
      PageDown: () => show(at + 1),
      " ": () => show(at + 1),
      ArrowLeft: () => show(at - 1),
      PageUp: () => show(at - 1),
      Home: () => show(0),
      End: () => show(slides.length - 1),
      Escape: stop,
    };
    const press = (event) => {
      const act = keys[event.key];
      // A focused button answers to the space bar itself.
      if (!act || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === " " && event.target.closest("button")) return;
      event.preventDefault();
      act();
    };
    const button = (label, words, act) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = label;
      made.title = words;
      made.setAttribute("aria-label", words);
      made.addEventListener("click", act);
      return made;
    };

    bar.append(
      button("‹", "Previous slide (←)", () => show(at - 1)),
      count,
      button("›", "Next slide (→)", () => show(at + 1)),
      button("Print", "Print, or save as PDF: one slide a page", () => window.print()),
      button("×", "Back to this place of the chapter (Esc)", stop),
    );
    stage.append(...slides, bar);
    document.body.append(stage);
    document.body.classList.add("has-slides");
    document.addEventListener("keydown", press);
    show(0);
    stage.focus();
  };

  const prepare = () => {
    const article = document.querySelector(".bd-article");
    const title = article?.querySelector("h1");
    // Chapters are pages with cells.
    if (!title || !article.querySelector(".cell")) return;
    const open = document.createElement("button");
    open.type = "button";
    open.className = "slides-start";
    open.textContent = "Slides";
    open.title = "Figures, tables and verdicts of this chapter, one a screen; arrow keys turn";
    open.addEventListener("click", () => start(article));
    title.before(open);
  };

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", prepare);
  else prepare();
})();
