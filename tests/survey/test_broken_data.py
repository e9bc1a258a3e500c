import re

import pytest

from cbir_lite import survey
from cbir_lite.survey import SurveyDataError

HASHNET_ROW = (
    "II,mAP@5000,NUS-WIDE,16,HashNet’17,hashnet,2017,71,CNN,71,66.2,66.2,1,false,16,5,1191"
)
HASHNET_LINE = "II,mAP@5000,NUS-WIDE+MS COCO,HashNet’17,hashnet,2017,71,CNN,71,6,6,66.2 |"
CLAIM = "- id: C-IX-3\n  section: IX\n"


def test_the_shipped_data_and_a_copy_agree(data):
    survey.check()
    survey.check(data)


def test_it_is_a_value_error():
    assert issubclass(SurveyDataError, ValueError)


TABLE2 = "tables/table2_map5000.csv"
PRINTED2 = "tables/table2_map5000_as_printed.csv"

BREAKS = [
    # file, old, new, file in message, row in message, field in message
    ("methods.yaml", "- id: dpsh\n", "- id: dhn\n", "methods.yaml", "(dhn)", "id"),
    ("methods.yaml", "- id: dpsh\n", "- id: DPSH!\n", "methods.yaml", "(DPSH!)", "id"),
    (
        "methods.yaml",
        "  full_name: Deep Hashing Network\n",
        "",
        "methods.yaml",
        "row 4",
        "full_name",
    ),
    (
        *("methods.yaml", "  full_name: Deep Hashing Network\n"),
        *("  full_name: [Deep]\n", "methods.yaml", "row 4 (dhn)", "full_name"),
    ),
    ("methods.yaml", "counts:\n  A: 39\n", "counts:\n  A: 38\n", "methods.yaml", "counts", "A"),
    (
        "methods.yaml",
        "  citations:\n  - 67\n",
        "  citations: 67\n",
        "methods.yaml",
        "dhn",
        "citations",
    ),
    (
        "methods.yaml",
        "  citations:\n  - 67\n",
        "  citations: [667]\n",
        "methods.yaml",
        "dhn",
        "citations",
    ),
    (
        *("methods.yaml", "  full_name: Deep Hashing Network\n"),
        *("  full_name: X\n  notes: Y\n", "methods.yaml", "(dhn)", "notes"),
    ),
    (
        "references.yaml",
        "  key: lowe2004sift\n",
        "  key: ojala2002lbp\n",
        "references.yaml",
        "row 6",
        "key",
    ),
    ("references.yaml", "- id: 229\n", "- id: 230\n", "references.yaml", "", "id"),
    (
        *("references.yaml", "  venue: International Journal of Computer Vision\n  year: 2004\n"),
        *("  venue: A Journal\n  year: 2004\n", "references.yaml", "lowe2004sift", "venue"),
    ),
    (
        TABLE2,
        HASHNET_ROW,
        HASHNET_ROW.replace("66.2,66.2", "166.2,66.2"),
        "table2",
        "row 26",
        "value",
    ),
    (
        TABLE2,
        HASHNET_ROW,
        HASHNET_ROW.replace("66.2,66.2", "66.9,66.2"),
        "table2",
        "row 26",
        "value",
    ),
    (
        TABLE2,
        HASHNET_ROW,
        HASHNET_ROW.replace("hashnet", "hasnet"),
        "table2",
        "row 26",
        "method_id",
    ),
    (TABLE2, HASHNET_ROW, HASHNET_ROW.replace("E,16,", "E,sixteen,"), "table2", "row 26", "bits"),
    (
        TABLE2,
        HASHNET_ROW,
        HASHNET_ROW.replace("false,16", "false,24"),
        "table2",
        "row 26",
        "bits_likely",
    ),
    (TABLE2, "table,protocol,", "table,metric,", "table2", "row 1", "protocol"),
    (
        *(PRINTED2, HASHNET_LINE, HASHNET_LINE.replace("66.2 |", "66.3 |")),
        *("table2_map5000_as_printed.csv", "row 6", "cells_left_to_right"),
    ),
    (
        *(PRINTED2, HASHNET_LINE, HASHNET_LINE.replace("2017,71", "2017,72")),
        *("table2_map5000_as_printed.csv", "row 6", "citation"),
    ),
    ("sections.yaml", CLAIM, CLAIM.replace("n: IX", "n: XI"), "sections.yaml", "C-IX-3", "section"),
    ("sections.yaml", CLAIM, CLAIM.replace("n: IX", "n: X-A"), "sections.yaml", "C-IX-3", "id"),
    ("sections.yaml", CLAIM, CLAIM.replace("IX-3", "IX-2"), "sections.yaml", "C-IX-2", "id"),
    ("sections.yaml", "errata: [E08]", "errata: [E09]", "sections.yaml", "C-IX-2", "errata"),
    ("sections.yaml", "- {id: V-F, ", "- {id: V-Q, ", "sections.yaml", "C-VF-1", "section"),
    (
        "sections.yaml",
        "- {id: VIII-B, ",
        "- {id: VIII-Q, ",
        "methods.yaml",
        "rs_transfer",
        "sections",
    ),
    (
        "errata.yaml",
        "likely: {duplicate: true}",
        "likely: {copy: true}",
        "errata.yaml",
        "E04",
        "rows",
    ),
    (
        "errata.yaml",
        "{method_id: hashgan_cao}",
        "{method_id: hashgan}",
        "errata.yaml",
        "E01",
        "methods",
    ),
    (
        "errata.yaml",
        "- {table: IV, ambiguous",
        "- {table: VI, ambiguous",
        "errata.yaml",
        "E05",
        "rows",
    ),
    ("errata.yaml", "IV, ambiguous_columns:", "IV, ambiguous:", "errata.yaml", "E05", "rows"),
    ("errata.yaml", "dataset: MNIST}", "dataset: mnist}", "errata.yaml", "E16", "rows"),
    (
        *(
            "taxonomy.yaml",
            "    - citation: 58\n      methods:\n      - deep_autoencoder_krizhevsky\n",
        ),
        *("    - citation: 58\n      methods:\n      - deep\n", "taxonomy.yaml", "2011", "methods"),
    ),
    (
        *("taxonomy.yaml", "    - citation: 59\n", "    - citation: 60\n"),
        *("taxonomy.yaml", "fig3_evolution.2012", "citation"),
    ),
    (
        "taxonomy.yaml",
        "      n: 25\n      years:\n        '2014'",
        None,
        "taxonomy.yaml",
        "cnn",
        "n",
    ),
]


@pytest.mark.parametrize("case", BREAKS, ids=[f"{b[3]}-{b[5]}-{i}" for i, b in enumerate(BREAKS)])
def test_a_broken_file_is_named_with_row_and_field(edit, case):
    name, old, new, file, row, field = case
    root = edit(name, old, old.replace("25", "24") if new is None else new)
    with pytest.raises(SurveyDataError) as caught:
        survey.check(root)
    message = str(caught.value)
    assert file in message
    assert row in message
    assert re.search(rf"field '{field}'", message)


def test_a_mistyped_facet_lists_the_choices(edit):
    root = edit("methods.yaml", "  - semi\n", "  - semisupervised\n", count=6)
    with pytest.raises(SurveyDataError, match="'semisupervised' is not one of pseudo, self, semi"):
        survey.methods(root)


def test_missing_and_unreadable_files(data):
    (data / "errata.yaml").unlink()
    with pytest.raises(SurveyDataError, match=r"errata\.yaml: not found"):
        survey.errata(data)
    (data / "references.yaml").write_text("- id: [", encoding="utf-8")
    with pytest.raises(SurveyDataError, match=r"references\.yaml: not valid YAML"):
        survey.references(data)
    (data / "tables" / "table1_datasets.csv").unlink()
    with pytest.raises(SurveyDataError, match=r"table1_datasets\.csv: not found"):
        survey.table(1, root=data)
    (data / "sections.yaml").write_text("sections: {}\n", encoding="utf-8")
    with pytest.raises(SurveyDataError, match=r"sections\.yaml: the top-level key 'claims'"):
        survey.claims(data)


def test_a_short_line_of_a_table(edit):
    root = edit(TABLE2, HASHNET_ROW, "II,mAP@5000,NUS-WIDE")
    with pytest.raises(SurveyDataError, match="row 26: 3 cells under 17 columns"):
        survey.table(2, root=root)
