"""The survey as data: systems, tables, taxonomy, references, errata and claims. No torch.

    >>> from cbir_lite import survey
    >>> survey.method("dpsh").sections
    ('IV-A', 'V-A')

Every function takes `root`, another folder with the same files, and returns read-only or fresh
objects. `check()` proves that the files agree with each other.
"""

from ._check import check
from ._errata import (
    Claim,
    Erratum,
    RowRule,
    Section,
    claim,
    claims,
    errata,
    errata_of,
    erratum,
    section,
    sections,
)
from ._load import SurveyDataError
from ._methods import (
    Component,
    SurveyMethod,
    background_citations,
    components,
    method,
    methods,
    notation,
)
from ._references import (
    Reference,
    bibtex,
    citation_key,
    methods_of,
    reference,
    references,
    references_of,
    write_bibtex,
)
from ._tables import reported, results, table, table_as_printed
from ._taxonomy import TreeNode, node, taxonomy, timeline, tree

__all__ = [
    "Claim",
    "Component",
    "Erratum",
    "Reference",
    "RowRule",
    "Section",
    "SurveyDataError",
    "SurveyMethod",
    "TreeNode",
    "background_citations",
    "bibtex",
    "check",
    "citation_key",
    "claim",
    "claims",
    "components",
    "errata",
    "errata_of",
    "erratum",
    "method",
    "methods",
    "methods_of",
    "node",
    "notation",
    "reference",
    "references",
    "references_of",
    "reported",
    "results",
    "section",
    "sections",
    "table",
    "table_as_printed",
    "taxonomy",
    "timeline",
    "tree",
    "write_bibtex",
]
