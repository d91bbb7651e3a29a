"""Reports of agents: accepted once, checked against the registration and against what a device can do, stored whole."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, select

from server.errors import BadValue, StaleLease
from server.ids import new_id
from server.services import claims, devices, job_ends, jobs, measurements, model_latency, models, p90, plausibility
from server.services.statistics import figures
from server.services.storable import digest, storable
from server.store.tables import Attempt, Job, Measurement, Model, OpRow, Profile
from server.wire import JobStatus, MeasurementSession, MeasureProtocol, ProfileKey, Report, Reported


def accept(session: Session, report: Report, now: datetime) -> Reported:
    """Accept an agent's report on a lease: store the session and finish the job, or fail the attempt.

    The same report again changes nothing and gets the same answer. Raises NotFound, StaleLease, and BadValue for a
    device that is not described as it is registered, and for latencies that it cannot have.
    """
    attempt = claims.get_attempt(session, report.lease_id)
    jobs.lock(session, attempt.job_id)  # the same report may come twice at once
    session.refresh(attempt)
    fingerprint = digest(report.model_dump())
    if attempt.number == report.attempt and attempt.report_sha256 == fingerprint:
        return _reported(session, jobs.get(session, attempt.job_id), report.lease_id)
    if attempt.report_sha256 is not None:
        raise StaleLease(f"another report on lease '{report.lease_id}' was accepted before: drop this one")
    if report.session is not None:
        job, stored = _measured(session, attempt, report, report.session, now)
    else:
        assert report.failure is not None
        stored = None
        job = job_ends.fail(session, report.lease_id, report.attempt, report.failure, now, report.log)
    attempt.report_sha256, attempt.log = fingerprint, report.log
    session.add(attempt)
    session.flush()
    return Reported(job_id=job.id, status=JobStatus(job.status), measurement_id=stored)


def _measured(
    session: Session, attempt: Attempt, report: Report, measured: MeasurementSession, now: datetime
) -> tuple[Job, str]:
    """The finished job and the id of its measurement."""
    measurement_id = new_id("measurement", now)
    # First, though what follows may refuse the report and undo it: a stale report is stale, whatever is in it.
    job = job_ends.finish(session, report.lease_id, report.attempt, {"measurement_id": measurement_id}, now)
    profile = devices.ensure_profile(session, _profile_key(session, attempt, job, measured), now)
    row = _row(session, job, report.lease_id, measurement_id, profile, measured, now)
    session.add(row)
    session.flush()
    model_latency.add_measured(session, row)
    for position, op in enumerate(measured.profile or ()):
        session.add(OpRow(measurement_id=measurement_id, position=position, **op.model_dump()))
    return job, measurement_id


def _profile_key(session: Session, attempt: Attempt, job: Job, measured: MeasurementSession) -> ProfileKey:
    """The key of the device profile, from the registration that the lease was given to. Raises BadValue if the report
    describes another device."""
    assert job.device is not None
    if measured.device.name != job.device:
        raise BadValue(f"this lease is for device '{job.device}', the report is from '{measured.device.name}'")
    protocol = MeasureProtocol.model_validate(job.payload["protocol"])
    if attempt.profile is not None:
        registered = ProfileKey.model_validate(attempt.profile)
    else:  # leased by a version that did not keep it
        registered = devices.registered_profile(session, job.device, protocol)
    reported = measured.device.profile(protocol.threads, protocol.cpu_mask)
    if reported != registered:
        changed = [name for name, value in registered if getattr(reported, name) != value]
        raise BadValue(
            f"the report describes device '{job.device}' otherwise than it was registered when the lease was given "
            f"({', '.join(changed)}): register the device as it is now, and measure again"
        )
    return registered


def _row(
    session: Session,
    job: Job,
    lease_id: str,
    measurement_id: str,
    profile: Profile,
    measured: MeasurementSession,
    now: datetime,
) -> Measurement:
    assert job.model_id is not None and job.device is not None
    result = figures(measured)
    anchor = models.anchor(session)
    expected = _expectation(session, job, profile, anchor)
    plausibility.check(result, expected)
    reasons = [result.unstable_reason] if result.unstable_reason else []
    reasons += plausibility.doubts(measured, result, expected)
    row = Measurement(
        id=measurement_id,
        lease_id=lease_id,
        job_id=job.id,
        model_id=job.model_id,
        profile_id=profile.id,
        device=job.device,
        p50_raw_ms=result.p50_raw_ms,
        p90_raw_ms=result.p90_raw_ms,
        anchor_p50_ms=result.anchor_p50_ms,
        anchor_sha256=anchor.sha256 if anchor and result.anchor_p50_ms is not None else None,
        cv=result.cv,
        anchor_drift=result.anchor_drift,
        stable=not reasons,
        unstable_reason="; ".join(reasons) or None,
        emulated=measured.emulated or profile.key["kind"] == "emulated",
        fully_accelerated=measured.fully_accelerated,
        samples=result.samples,
        session=storable(measured.model_dump(mode="json", exclude={"profile"})),
        created_at=now,
    )
    p90.judge(row, result, reasons)
    measurements.normalise(row, profile)
    return row


def _expectation(session: Session, job: Job, profile: Profile, anchor: Model | None) -> plausibility.Expectation:
    assert job.model_id is not None
    model = models.get(session, job.model_id)
    return plausibility.Expectation(
        threads=MeasureProtocol.model_validate(job.payload["protocol"]).threads,
        precision=model.precision,
        macs=model.macs,
        anchor_macs=anchor.macs if anchor else None,
        reference_ms=profile.anchor_reference_ms,
    )


def _reported(session: Session, job: Job, lease_id: str) -> Reported:
    stored = session.exec(select(Measurement.id).where(Measurement.lease_id == lease_id)).first()
    return Reported(job_id=job.id, status=JobStatus(job.status), measurement_id=stored)
