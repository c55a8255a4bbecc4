"""A claim has one owner. If the owner is dead, one other process takes it over."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from feathervit.studies import claim as claims


def test_a_claim_has_one_owner_until_it_is_released(tmp_path):
    first = claims.claim(tmp_path)
    assert claims.claim(tmp_path) is None
    with first:
        assert first.mine
    second = claims.claim(tmp_path)
    assert second.mine and not first.mine
    with second:
        assert claims.claim(tmp_path) is None


def test_a_silent_owners_claim_is_taken_over_once(tmp_path, monkeypatch):
    lost = claims.claim(tmp_path)
    owner = json.loads(lost.path.read_text())
    lost.path.write_text(json.dumps({**owner, "host": "elsewhere"}))
    assert claims.claim(tmp_path) is None  # it may be alive
    past = time.time() - claims.STALE_SECONDS - 1
    os.utime(lost.path, (past, past))
    second, third = claims.claim(tmp_path), claims.claim(tmp_path)
    assert second.mine and third is None and not lost.mine
    with lost:
        pass  # the old owner wakes up and releases a claim that it no longer owns
    assert second.mine and claims.claim(tmp_path) is None
    with second:
        pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the start time of a process")
def test_on_one_machine_a_live_process_keeps_its_claim(tmp_path):
    held = claims.claim(tmp_path)
    past = time.time() - claims.STALE_SECONDS - 1
    os.utime(held.path, (past, past))  # the machine was asleep
    assert claims.claim(tmp_path) is None
    owner = json.loads(held.path.read_text())
    held.path.write_text(json.dumps({**owner, "began": "1"}))  # another process had this id
    assert claims.claim(tmp_path).mine and not held.mine


def test_a_working_owner_sends_heartbeats(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    with claims.claim(tmp_path) as held:
        owner = json.loads(held.path.read_text())
        held.path.write_text(json.dumps({**owner, "host": "elsewhere"}))
        past = time.time() - claims.STALE_SECONDS - 1
        os.utime(held.path, (past, past))
        deadline = time.monotonic() + 10
        while held.path.stat().st_mtime < past + 10 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert claims.claim(tmp_path) is None
