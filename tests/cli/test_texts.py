"""Reading texts: what is one text, and what is said when something is not."""

from __future__ import annotations

import io
import json
import re
import sys
import types
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from embstore.cli.errors import InputError
from embstore.cli.texts import Format, read_texts


def write(tmp_path: Path, name: str, content: str | bytes) -> str:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    "name,content,column,texts",
    [
        ("a.txt", "one\ntwo\n\nfour", None, ["one", "two", "", "four"]),
        ("a.txt", "one\r\n two \r\n", None, ["one", " two "]),
        ("a.txt", "form\x0cfeed\nline\u2028end\n", None, ["form\x0cfeed", "line\u2028end"]),
        ("a.txt", "\ufeffwith a mark\n", None, ["with a mark"]),
        ("a.csv", 'id,body\n1,"two\nlines, one text"\n2,\n', "body", ["two\nlines, one text", ""]),
        ("a.csv", 'id,body\r\n1,"it says ""so"""\r\n\r\n2,b\r\n', "body", ['it says "so"', "b"]),
        ("a.csv", "\ufeffbody\na\n", None, ["a"]),
        ("A.CSV", "body,id\na,1\n", "body", ["a"]),
        ("a.jsonl", '{"t": "a\\nb", "n": 1}\n\n{"n": 2, "t": "c"}\n', "t", ["a\nb", "c"]),
        ("a.jsonl", '{"t": "a"}\n{"t": "b"}', None, ["a", "b"]),
        ("a.ndjson", '"a"\n"\u2028"\n', None, ["a", "\u2028"]),
        ("a.jsonl", '"\\ud800"\n', None, ["\ud800"]),
    ],
)  # fmt: skip
def test_what_is_one_text(
    tmp_path: Path, name: str, content: str, column: str | None, texts: list[str]
) -> None:
    assert read_texts(write(tmp_path, name, content), column=column) == texts


@pytest.mark.parametrize(
    "name,content,column,message",
    [
        ("a.txt", "", None, "is empty"),
        ("a.csv", "body\n", "body", "is empty"),
        ("a.csv", "", "body", "has no columns: there is no 'body'"),
        ("a.jsonl", "\n\n", None, "is empty"),
        ("a.txt", "x", "body", "has no column 'body'"),
        ("a.csv", "id,body\n1,a\n", "text", "has 'id', 'body': there is no 'text'"),
        ("a.csv", "id,body\n1,a\n", None, "has 'id', 'body': say which .* with --column"),
        ("a.csv", "body,body\n1,a\n", "body", "2 columns named 'body'"),
        ("a.csv", "id,body\n1,a\n2\n", "body", "line 3: the row has 1 cells"),
        ("a.csv", 'id,body\n1,"a\n2,b\n', "body", "line 3: unexpected end of data"),
        ("a.jsonl", '{"t": "a"}\n{"u": "b"}\n', "t", "line 2 has 'u': there is no 't'"),
        ("a.jsonl", '{"t": "a"}\n{"t": 5}\n', "t", "line 2 has 5 where a string is needed"),
        ("a.jsonl", '{"t": null}\n', "t", "line 1 has null where"),
        ("a.jsonl", '{"t": "a", "u": ""}\n', None, "line 1 has 't', 'u': say which"),
        ("a.jsonl", '"a"\n', "t", "line 1 is no object"),
        ("a.jsonl", '{"t": "a"\n', "t", "line 1 is not JSON"),
        ("a.txt", b"good\nna\xefve\n", None, r"not utf-8: line 2 has the byte 0xef.*--encoding"),
        ("a.dat", "x", None, r"--format txt\|csv\|jsonl\|parquet"),
        ("a.parquet", "no parquet at all", "t", "cannot be read as parquet"),
        ("a.parquet", "", "t", "cannot be read as parquet"),
    ],
)
def test_messages_say_what_to_do(
    tmp_path: Path, name: str, content: str | bytes, column: str | None, message: str
) -> None:
    source = write(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as caught:
        read_texts(source, column=column)
    assert re.search(re.escape(source), str(caught.value))


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_texts(str(tmp_path / "none.txt"))


def test_encodings(tmp_path: Path) -> None:
    source = write(tmp_path, "a.txt", "naïve\n".encode("cp1252"))
    assert read_texts(source, encoding="cp1252") == ["naïve"]
    with pytest.raises(InputError, match="no encoding 'klingon'"):
        read_texts(source, encoding="klingon")


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    long = "x" * 500_000
    assert read_texts(write(tmp_path, "a.csv", f"t\n{long}\n")) == [long]


def test_the_format_said_wins_over_the_suffix(tmp_path: Path) -> None:
    source = write(tmp_path, "a.txt", '"a"\n')
    assert read_texts(source, file_format=Format.JSONL) == ["a"]


@pytest.mark.parametrize(
    "file_format,content,texts",
    [(None, b"a\nb\n", ["a", "b"]), (Format.CSV, b"t\na\n", ["a"])],
)
def test_standard_input(
    monkeypatch: pytest.MonkeyPatch, file_format: Format | None, content: bytes, texts: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    assert read_texts("-", file_format=file_format) == texts


class TestParquet:
    TEXTS = ("a", "", "two\nlines", "a")

    def write(self, tmp_path: Path, cells: pa.Array) -> str:
        path = tmp_path / "a.parquet"
        parquet.write_table(pa.table({"n": pa.array(range(len(cells))), "t": cells}), path)
        return str(path)

    @pytest.mark.parametrize(
        "kind",
        [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
        ids=str,
    )
    def test_strings_of_all_kinds(self, tmp_path: Path, kind: pa.DataType) -> None:
        source = self.write(tmp_path, pa.array(self.TEXTS, pa.string()).cast(kind))
        assert read_texts(source, column="t") == list(self.TEXTS)

    def test_standard_input(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content = Path(self.write(tmp_path, pa.array(self.TEXTS))).read_bytes()
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
        assert read_texts("-", file_format=Format.PARQUET, column="t") == list(self.TEXTS)

    @pytest.mark.parametrize(
        "cells,column,message",
        [
            (pa.array(["a"]), "u", "has 'n', 't': there is no 'u'"),
            (pa.array(["a"]), None, "say which"),
            (pa.array(["a"]), "n", "holds int64, not strings"),
            (pa.array(["a", None]), "t", "null in row 1"),
            (pa.array([], pa.string()), "t", "is empty"),
        ],
    )
    def test_messages(
        self, tmp_path: Path, cells: pa.Array, column: str | None, message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            read_texts(self.write(tmp_path, cells), column=column)

    def test_without_pyarrow_the_extra_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = self.write(tmp_path, pa.array(["a"]))
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(InputError, match=r"pip install 'embstore\[parquet\]'"):
            read_texts(source, column="t")


@given(st.lists(st.text(), min_size=1))
def test_any_text_comes_back_from_jsonl(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    lines = "".join(json.dumps({"t": text}) + "\n" for text in texts)
    source = write(tmp_path_factory.mktemp("any"), "a.jsonl", lines)
    assert read_texts(source, column="t") == texts


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_any_text_comes_back_from_csv(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    rows = "".join('0,"{}"\r\n'.format(text.replace('"', '""')) for text in texts)
    source = write(tmp_path_factory.mktemp("any"), "a.csv", f"n,t\r\n{rows}")
    assert read_texts(source, column="t") == texts
