"""Tables of distinct networks: what is in them, and building them in the face of trouble."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import paper, small
from elasticvit.cli.app import app
from elasticvit.costs import level_tables as module
from elasticvit.costs.band_sampler import BandSampler
from elasticvit.costs.flops import paper_mflops
from elasticvit.costs.level_tables import LevelTableError, LevelTables, build_level_tables, load_level_tables
from elasticvit.costs.levels import PAPER_FLOORS, PAPER_LEVELS, floor_by_key
from elasticvit.progress import Step
from elasticvit.training.sampling import Sampler, Sampling, SamplingError

FEW = 400


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> LevelTables:
    return build_level_tables(paper(), tmp_path_factory.mktemp("tables"), per_level=FEW)


@pytest.mark.medium
def test_all_levels_of_the_paper_above_their_floors(built: LevelTables) -> None:
    space = paper()
    assert tuple(built.levels) == PAPER_LEVELS
    for target, table in built.levels.items():
        assert table.codes.dtype == np.int8 and table.costs.dtype == np.float32
        assert isinstance(table.codes, np.memmap) and not table.codes.flags.writeable
        assert len(np.unique(table.codes, axis=0)) == FEW
        assert space.valid(table.codes).all()
        exact = np.array([paper_mflops(space.decode(code)) for code in table.codes])
        assert (exact >= target).all() and (exact <= target + 30).all() and exact.max() > target + 20
        assert table.costs == pytest.approx(exact, rel=1e-6)
        floor = space.encode(floor_by_key(PAPER_FLOORS, target))
        bounded = [name.endswith(("resolution", "width", "depth")) for name, _ in space.dimensions]
        assert (table.codes >= floor)[:, bounded].all()


def test_building_again_keeps_what_is_there(built: LevelTables) -> None:
    paths = sorted(built.folder.iterdir())
    before = [path.stat().st_mtime_ns for path in paths]
    seen: list[Step] = []
    build_level_tables(paper(), built.folder, per_level=FEW, report=seen.append)
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert seen == [Step(f"{target:g} MFLOPs", FEW, FEW) for target in PAPER_LEVELS]
    assert len(paths) == 3 * len(PAPER_LEVELS)


@pytest.mark.medium
def test_what_was_stopped_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    levels = (200.0, 400.0)
    whole = build_level_tables(paper(), tmp_path / "whole", levels, per_level=FEW)

    class StopError(Exception):
        pass

    def stop(step: Step) -> None:
        if step.phase == "400 MFLOPs":
            raise StopError

    with pytest.raises(StopError):
        build_level_tables(paper(), tmp_path / "parts", levels, per_level=FEW, report=stop)
    assert list(load_level_tables(tmp_path / "parts").levels) == [200.0]
    # A killed run leaves a part, and perhaps arrays without a header.
    (tmp_path / "parts" / ".level-400.codes.npy.part").write_bytes(b"half")
    (tmp_path / "parts" / "level-400.codes.npy").write_bytes(b"half")
    parts = build_level_tables(paper(), tmp_path / "parts", levels, per_level=FEW)
    for target in levels:
        assert np.array_equal(parts.levels[target].codes, whole.levels[target].codes)
    assert not list((tmp_path / "parts").glob(".*"))


@pytest.mark.medium
def test_other_settings_rebuild_a_level(tmp_path: Path) -> None:
    first = build_level_tables(paper(), tmp_path, (200.0,), per_level=FEW)
    codes = np.array(first.levels[200.0].codes)
    second = build_level_tables(paper(), tmp_path, (200.0,), per_level=FEW, seed=1)
    assert not np.array_equal(second.levels[200.0].codes, codes)


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["codes.npy", "costs.npy", "json"])
def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path, kind: str) -> None:
    build_level_tables(paper(), tmp_path, (200.0,), per_level=FEW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for level, seed in ((400, 0), (200, 1)):  # a new level, and one that would take the place of another
        (tmp_path / f".level-{level}.{kind}.part").symlink_to("/dev/full")
        with pytest.raises(LevelTableError, match="No space left on device; finished levels are kept"):
            build_level_tables(paper(), tmp_path, (level,), per_level=FEW, seed=seed)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.medium
def test_damage_is_noticed(tmp_path: Path) -> None:
    build_level_tables(paper(), tmp_path, (200.0,), per_level=FEW)
    path = tmp_path / "level-200.codes.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LevelTableError, match="is damaged"):
        load_level_tables(tmp_path)
    build_level_tables(paper(), tmp_path, (200.0,), per_level=FEW)
    assert load_level_tables(tmp_path).levels[200.0].codes.shape == (FEW, 29)
    (tmp_path / "level-200.json").write_text("{")
    with pytest.raises(LevelTableError, match="is damaged"):
        load_level_tables(tmp_path)
    with pytest.raises(LevelTableError, match="holds no level tables"):
        load_level_tables(tmp_path / "nothing")


@pytest.mark.medium
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.float32])
def test_codes_that_are_not_in_the_space_are_damage(tmp_path: Path, dtype: type) -> None:
    """Files of others whose hashes fit: index 200 is none of int8, and -56 once it is read as one."""
    build_level_tables(paper(), tmp_path, (200.0,), per_level=FEW)
    path, header = tmp_path / "level-200.codes.npy", tmp_path / "level-200.json"
    codes = np.load(path).astype(np.int64)
    codes[7, 0] = 200
    np.save(path, codes.astype(dtype))
    content = json.loads(header.read_text())
    content["sha256"][0] = hashlib.sha256(path.read_bytes()).hexdigest()
    header.write_text(json.dumps(content))
    with pytest.raises(LevelTableError, match="is damaged"):
        load_level_tables(tmp_path)
    build_level_tables(paper(), tmp_path, (200.0,), per_level=FEW)
    assert load_level_tables(tmp_path).levels[200.0].codes.dtype == np.int8


@pytest.mark.medium
def test_more_networks_than_there_are_is_an_error(tmp_path: Path) -> None:
    space = small()
    with pytest.raises(LevelTableError, match="hardly more than"):
        build_level_tables(space, tmp_path, (paper_mflops(space.smallest()),), floors=(), band=0.01, per_level=100_000)


@pytest.mark.medium
def test_training_draws_from_the_tables_up_to_its_own_band(built: LevelTables) -> None:
    space = paper()
    sampler = Sampler(space, Sampling(levels=PAPER_LEVELS, floors=PAPER_FLOORS), built.folder)
    state, rng = sampler.start(), np.random.default_rng(0)
    for _ in range(60):
        choice = sampler.step(state, rng)
        rows = {tuple(code) for code in built.levels[PAPER_LEVELS[choice.level]].codes.tolist()}
        for arch in choice.archs[:-1]:
            assert tuple(space.encode(arch).tolist()) in rows
            assert paper_mflops(arch) <= PAPER_LEVELS[choice.level] + 20


@pytest.mark.medium
def test_tables_of_other_levels_and_floors_are_refused(built: LevelTables) -> None:
    for sampling in (
        Sampling(levels=(150.0,)),
        Sampling(levels=PAPER_LEVELS),
        Sampling(levels=PAPER_LEVELS, floors=((200.0, PUBLISHED["min2"]),), band=40.0),
        Sampling(levels=PAPER_LEVELS, floors=PAPER_FLOORS, band=31.0),
    ):
        with pytest.raises(LevelTableError):
            Sampler(paper(), sampling, built.folder)
    with pytest.raises(SamplingError, match="levels by targets"):
        Sampler(small(), Sampling(), built.folder)


@pytest.mark.medium
def test_rows_are_drawn_like_the_band(tmp_path: Path) -> None:
    """The mean code of a table is that of the band it was drawn from, within four standard errors."""
    table = build_level_tables(paper(), tmp_path, (300.0,), per_level=20_000).levels[300.0]
    band = BandSampler(paper(), floor=PUBLISHED["min2"], low=300, high=330)
    direct = band.sample(np.random.default_rng(5), 20_000).astype(float)
    error = np.sqrt((table.codes.var(axis=0) + direct.var(axis=0)) / 20_000)
    assert (np.abs(table.codes.mean(axis=0) - direct.mean(axis=0)) <= 4 * error).all()


def test_the_command_builds_levels_and_lists_them(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tables", "--out", str(tmp_path), "--per-level", "50", "--level", "200"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["levels"] == [{"level": 200.0, "networks": 50, "floor": PUBLISHED["min1"].id}]
    assert load_level_tables(tmp_path).levels[200.0].header["format"] == module.FORMAT
