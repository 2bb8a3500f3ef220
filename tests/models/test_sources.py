"""Teachers that are not where they are said to be: folders are told at once, the hub is asked for ids alone."""

from __future__ import annotations

import huggingface_hub
import pytest
import transformers
from huggingface_hub import constants

from snn_extreme_quant.errors import ModelSourceError
from snn_extreme_quant.models.bert.base import load_base
from snn_extreme_quant.models.bert.teacher import load_teacher, load_tokenizer


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What transformers is asked for; it has nothing. The hub is on, its cache empty, ``runs/teacher/`` there."""
    found = []

    def nothing(source, **_):
        found.append(source)
        raise OSError("nobody has it")

    for name in ("AutoConfig", "AutoTokenizer", "AutoModel", "AutoModelForSequenceClassification"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", nothing)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/teacher").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    return found


LOADERS = (load_teacher, load_tokenizer, lambda source: load_base(source, 2, 0.1))


@pytest.mark.parametrize("load", LOADERS, ids=("teacher", "tokenizer", "base"))
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("./nowhere", "The folder ./nowhere does not exist"),
        ("/nowhere/at/all", "does not exist"),
        ("nowhere/", "The folder nowhere/ does not exist"),
        ("runs/teachr/best", "Did you mean runs/teacher"),
        ("runs/teachr", "though runs does. Did you mean runs/teacher"),
        ("~/teacher", "does not exist"),
        ("file", "is a file"),
        ("", "empty"),
        (3, "3 is no source of a model"),
    ],
)
def test_what_is_no_folder_is_said_without_asking(asked, load, source, words):
    with pytest.raises(ModelSourceError, match=words):
        load(source)
    assert asked == []


@pytest.mark.parametrize("load", LOADERS, ids=("teacher", "tokenizer", "base"))
@pytest.mark.parametrize("source", ["owner/name", "bert-base-uncased"])
def test_an_id_is_asked_for(asked, load, source):
    with pytest.raises(ModelSourceError, match="nobody has it"):
        load(source)
    assert asked == [source]


def test_a_path_is_a_folder(asked, tmp_path):
    with pytest.raises(ModelSourceError, match="does not exist"):
        load_teacher(tmp_path / "owner")
    assert asked == []


def test_without_the_hub_its_cache_is_all_there_is(asked, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelSourceError, match=r"owner/name does not exist.*HF_HUB_OFFLINE"):
        load_teacher("owner/name")
    assert asked == []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    for source in ("owner/name", "runs/name"):  # a folder beside does not hide what was downloaded
        with pytest.raises(ModelSourceError, match="nobody has it"):
            load_teacher(source)
    assert asked == ["owner/name", "runs/name"]
