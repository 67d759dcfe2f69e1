from __future__ import annotations

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Operator

from operators.longitudinal_comparator.operator import LongitudinalComparatorOperator
from operators.messages import FollowUp, LesionProbabilities
from tests.operators.longitudinal_comparator.scenes import follow

BALL = ((-12.0, -20.0, 12.0), 4.5)


class _Source(Operator):
    def __init__(self, fragment: Application, *args, message: LesionProbabilities, **kwargs):
        self._message = message
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec) -> None:
        spec.output("lesion_probabilities")

    def compute(self, op_input, op_output, context) -> None:
        op_output.emit(self._message, "lesion_probabilities")


class _Sink(Operator):
    def __init__(self, fragment: Application, *args, results: list[FollowUp], **kwargs):
        self._results = results
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec) -> None:
        spec.input("follow_up")

    def compute(self, op_input, op_output, context) -> None:
        self._results.append(op_input.receive("follow_up"))


def test_the_operator_passes_the_comparison_on_with_its_time() -> None:
    expected = follow([BALL], [BALL])
    results: list[FollowUp] = []

    class _Application(Application):
        def compose(self) -> None:
            source = _Source(
                self, CountCondition(self, 1), message=expected.probabilities, name="source"
            )
            middle = LongitudinalComparatorOperator(self, name="longitudinal_comparator")
            self.add_flow(source, middle, {("lesion_probabilities", "lesion_probabilities")})
            self.add_flow(middle, _Sink(self, results=results, name="sink"))

    _Application([]).run()
    (result,) = results
    assert result.lesions == expected.lesions
    assert result.timing_s["longitudinal_comparator"] > 0
