"""The OpenAPI document is kept, whatever is sent: briefly; in full in `make test-soak`."""

from tests.contract import run_contract


def test_every_answer_is_as_the_document_says(tmp_path):
    told = run_contract(tmp_path, "fuzzing,stateful", max_examples=4, within_s=270.0)
    assert "Tested: 29" in told, told[-3000:]
