"""A key that occurs twice is an error in all formats with keys: a value would be lost."""

import json
import zipfile

import pytest

from resnets.data import DataError
from resnets.data.sources.find_parquet import _read_card
from resnets.detect.data.documents import parse_json as parse_annotations
from resnets.detect.data.documents import parse_yaml
from resnets.detect.formats.class_names import number_names
from resnets.evaluate.data.ground_truth import _parse_json as parse_labels
from resnets.utils.errors import ConfigError
from resnets.utils.files.json import parse_json, read_object
from resnets.weights.errors import WeightsError
from resnets.weights.folder import read_config
from resnets.weights.readers.configs.class_names import parse_names
from resnets.weights.readers.keras import read_keras

TWICE = '{"names": {"a": 1, "a": 2}}'


def test_a_repeated_key_with_another_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="'a'"):
        parse_json(TWICE)
    assert parse_json('{"a": [1], "b": 0, "a": [1]}') == {"a": [1], "b": 0}


def test_readers_of_files_refuse_repeated_keys(tmp_path) -> None:
    file = tmp_path / "config.json"
    file.write_text(TWICE)
    with pytest.raises(DataError):
        parse_annotations(TWICE.encode(), "set.json")
    with pytest.raises(DataError):
        parse_labels(file, f"[{TWICE}]")
    with pytest.raises(ConfigError):
        read_object(file)
    with pytest.raises(WeightsError):
        read_config(tmp_path)
    keras = tmp_path / "net.keras"
    with zipfile.ZipFile(keras, "w") as archive:
        archive.writestr("config.json", TWICE)
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(WeightsError, match="'a'"):
        read_keras(keras)


def test_names_of_classes_with_a_repeated_number_are_not_used() -> None:
    assert parse_names('{"0": "cat", "1": "dog"}') == ("cat", "dog")
    assert parse_names('{"0": "cat", "1": "dog", "1": "owl"}') == ()


@pytest.mark.parametrize(
    "text", ["names: [a]\nnc: 1\nnames: [b]\n", "names: {0: a, 0: b}\n", "{1: a, '1': b}"]
)
def test_yaml_refuses_repeated_keys(text: str) -> None:
    with pytest.raises(DataError):
        parse_yaml(text.encode(), "data.yaml")
    assert parse_yaml(b"names: {0: a, 1: b}\nmore: {0: c}\n", "data.yaml")["more"] == {"0": "c"}


def test_scalars_of_yaml_are_text_as_written() -> None:
    text = b"names: [no, 007, 1.10, 12:30, 2024-01-01, null]\nnc: 0x10\ntest:\n"
    written = ["no", "007", "1.10", "12:30", "2024-01-01", None]
    assert parse_yaml(text, "data.yaml") == {"names": written, "nc": "0x10", "test": None}


@pytest.mark.parametrize("names", [{"0": "cat", "00": "dog"}, {"cat": "0"}, {"0": None}, [["cat"]]])
def test_class_names_of_yaml_that_are_not_numbers_with_a_name_are_refused(names) -> None:
    assert number_names({"0": "no", "2.0": "on"}, "data.yaml", 3) == {0: "no", 2: "on"}
    with pytest.raises(DataError):
        number_names(names, "data.yaml", 3)


@pytest.mark.parametrize("head", ["license: mit\nlicense: mit", "[" * 2000 + "]" * 2000])
def test_the_card_of_a_data_set_is_read_as_other_yaml(head: str, tmp_path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"---\n{head}\n---\n")
    with pytest.raises(DataError, match="unsupported YAML"):
        _read_card(card)


def test_json_lines_refuse_repeated_keys(tmp_path) -> None:
    from resnets.data.tables.reader import open_table_file

    file = tmp_path / "set.jsonl"
    lines = [json.dumps({"file_name": f"{n}.png", "label": "cat"}) for n in range(3)]
    file.write_text("\n".join([*lines, '{"file_name": "3.png", "label": "cat", "label": "dog"}']))
    table = open_table_file(file, lambda name: name.endswith(".png"), lambda _: True)
    assert table is not None
    with pytest.raises(DataError, match="line 4"):
        list(table.rows())
