"""Recipes from Python, on this machine."""

import pytest
from conftest import hashes

import forebay
from forebay import errors


def test_a_recipe_makes_what_prep_makes(recipe, corpus):
    found = forebay.run(recipe)
    assert hashes(recipe.parent / "out") == hashes(corpus)
    assert not found["already"] and forebay.run(recipe)["already"]
    other = forebay.run(recipe, set={"output.path": "other", "dedup.fuzzy": False, "shuffle.seed": 8})
    assert other["documents"] > found["documents"] and (recipe.parent / "other").is_dir()


def test_a_dict_is_a_recipe(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "one two"}\n')
    found = forebay.run({"input": {"paths": [str(tmp_path / "a.jsonl")]}, "tokenize": {}, "output": {"path": str(tmp_path / "out")}})
    assert (found["documents"], found["tokens"]) == (1, 3)


def test_a_wrong_recipe_is_a_config_error(recipe):
    recipe.write_text(recipe.read_text() + "[dedupe]\n")
    with pytest.raises(errors.ConfigError, match="(?s)line 11.*did you mean `dedup`"):
        forebay.run(recipe)
    with pytest.raises(errors.ConfigError, match="executor"):
        forebay.run({"input": {}, "output": {}}, executor="spark")
    with pytest.raises(errors.ConfigError, match="executor"):
        forebay.run({"input": {}, "output": {}, "execution": {"executor": "slurm"}})
    with pytest.raises(errors.ConfigError, match="output.*a URI"):
        forebay.run({"input": {"paths": ["s3://bucket/a.jsonl"]}, "output": {"path": "s3://bucket/out"}}, executor="ray")
    with pytest.raises(errors.ConfigError, match="paths"):
        forebay.run({"input": {}, "output": {"path": "x"}})
