"""The OpenAPI document is kept, whatever is sent: in full."""

import pytest
from tests.contract import run_contract


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_answer_is_as_the_document_says_in_full(tmp_path, capsys):
    told = run_contract(tmp_path, "examples,coverage,fuzzing,stateful", max_examples=30, within_s=3500.0)
    with capsys.disabled():
        print(told[-600:])
    assert "Tested: 29" in told, told[-3000:]
