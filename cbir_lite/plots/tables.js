// Tables of class "sortable": click a heading to sort, type to filter, take away as CSV. Pages load
// this file; tables shown in notebooks carry it, possibly several times. A cell sorts by its
// data-sort, else by its text. A "table-tools" within the table's "table-frame" keeps its own link.
(() => {
  "use strict";

  const text = (cell) => cell.textContent.trim().replace(/\s+/g, " ");

  const key = (cell) => cell.dataset.sort ?? text(cell);

  // The first number of a cell such as "83.8 ± 0.3"; null for anything else.
  const number = (value) => {
    const match = /^[-+−]?\d+(\.\d+)?/.exec(value);
    return match ? parseFloat(match[0].replace("−", "-")) : null;
  };

  // Cells without a value ("—" or nothing) stay last in both directions.
  const compare = (a, b, sign) => {
    const none = (v) => v === "" || v === "—";
    if (none(a) || none(b)) return none(a) - none(b);
    const [x, y] = [number(a), number(b)];
    if (x !== null && y !== null) return sign * (x - y);
    return sign * a.localeCompare(b, undefined, { numeric: true, sensitivity: "base" });
  };

  const sort = (table, column, header) => {
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [key(row.cells[column]), row]);
    rows.sort((a, b) => compare(a[0], b[0], ascending ? 1 : -1));
    rows.forEach(([, row], i) => {
      row.classList.toggle("row-even", i % 2 === 0);
      row.classList.toggle("row-odd", i % 2 === 1);
      body.append(row);
    });
  };

  const filter = (table, words, status) => {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    let shown = 0;
    for (const row of rows) {
      const content = text(row).toLowerCase();
      row.hidden = !wanted.every((word) => content.includes(word));
      shown += !row.hidden;
    }
    status.textContent = wanted.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
  };

  const csv = (table) => {
    const quote = (value) => (/[",\n]/.test(value) ? `"${value.replace(/"/g, '""')}"` : value);
    const rows = [...table.rows].filter((row) => !row.hidden);
    return rows.map((row) => [...row.cells].map((c) => quote(text(c))).join(",")).join("\r\n");
  };

  const title = (table) => {
    const { caption } = table;
    return caption ? text(caption.querySelector(".caption-text") || caption) : document.title;
  };

  const name = (table) => {
    return title(table).toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") || "table";
  };

  // A place for tools with a link to the visible rows as CSV.
  const toolsBefore = (table, frame) => {
    const tools = document.createElement("div");
    tools.className = "table-tools";
    const link = document.createElement("a");
    link.href = "#";
    link.className = "csv";
    link.textContent = "Download CSV";
    link.addEventListener("click", () => {
      link.download = `${name(table)}.csv`;
      link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    });
    tools.append(link);
    // Tables scroll within a wrapper of the theme or in their frame; the tools stay outside.
    if (frame) frame.prepend(tools);
    else (table.closest(".pst-scrollable-table-container") || table).before(tools);
    return tools;
  };

  const enhance = (table) => {
    if (!table.tHead || !table.tBodies.length || table.dataset.enhanced) return;
    table.dataset.enhanced = "yes";
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...header.childNodes);
      header.replaceChildren(button);
      header.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, column, header));
    });
    const frame = table.closest(".table-frame");
    const tools = (frame && frame.querySelector(".table-tools")) || toolsBefore(table, frame);
    const box = document.createElement("input");
    box.type = "search";
    box.setAttribute("aria-label", `Filter rows: ${title(table)}`);
    const label = document.createElement("label");
    label.append("Filter rows ", box);
    const status = document.createElement("span");
    status.setAttribute("role", "status");
    box.addEventListener("input", () => filter(table, box.value, status));
    tools.prepend(label, status);
    filter(table, "", status);
  };

  const start = () => document.querySelectorAll("table.sortable").forEach(enhance);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
