import sys, re; sys.path.insert(0, "/tmp/svc_tools")
from svc_sub import *
sub("server/services/host_calibration.py",
("    newest_first = select(Job).where(Job.kind == JobKind.CALIBRATE.value, Job.device == HOST).order_by(col(Job.id).desc())\n    last = session.exec(newest_first.limit", "    statement = select(Job).where(Job.kind == JobKind.CALIBRATE.value, Job.device == HOST).order_by(col(Job.id).desc())\n    last = session.exec(statement.limit"))
sub("server/services/measurements.py",
("    return tuple(OpTime.model_validate(op.model_dump(include=set(OpTime.model_fields))) for op in session.exec(statement))\n",
"    fields = set(OpTime.model_fields)\n    return tuple(OpTime.model_validate(op.model_dump(include=fields)) for op in session.exec(statement))\n"))
sub("tests/server/compute/test_calibrate.py",
('''def stored_rows(''', '''@pytest.fixture
def calibrations_anywhere(any_farm: Farm, tmp_path: Path) -> CalibrationFarm:
    """On each kind of database."""
    return calibration_farm(any_farm, tmp_path)


def stored_rows('''),
('''def test_a_session_that_cannot_be_aligned_is_skipped_and_named(calibrations: CalibrationFarm) -> None:
    """Once and for ever: every later calibration goes on without it, and does not look at it again."""
''', '''def test_a_session_that_cannot_be_aligned_is_skipped_and_named(calibrations_anywhere: CalibrationFarm) -> None:
    """Later calibrations succeed without it, and do not align it again."""
    calibrations = calibrations_anywhere
'''))
