"""Match batches with offers of the v1 API. All functions are pure.

A task's resources are taken from those of an offer entry by entry, which preserves their roles, reservations and
allocations ("Resource roles and reservations" in the documentation of Mesos).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from toilfn.errors import InputError
from toilfn.resources import Resources

__all__ = ["Offer", "amounts", "attributes", "cut", "is_preemptible", "suits"]

Offer: TypeAlias = "dict[str, Any]"

_MIB = 2**20


def amounts(resources: Resources) -> dict[str, float]:
    """Translate requirements into the names and units of Mesos: cores, and megabytes of 2**20 bytes.

    Raises
    ------
    InputError
        If a kind of accelerator is requested that Mesos does not have.
    """
    wrong = [accelerator.kind for accelerator in resources.accelerators if accelerator.kind != "gpu"]
    if wrong:
        raise InputError(f"Mesos has no accelerators of kind {wrong[0]!r}: only gpu is supported")
    asked = {
        "cpus": max(0.01, resources.cores),
        "mem": float(max(32, math.ceil(resources.memory / _MIB))),
        "disk": float(math.ceil(resources.disk / _MIB)),
        "gpus": float(sum(accelerator.count for accelerator in resources.accelerators)),
    }
    return {name: amount for name, amount in asked.items() if amount}


def attributes(offer: Offer) -> dict[str, str]:
    """Return an agent's attributes as text."""
    found: dict[str, str] = {}
    for attribute in offer.get("attributes", ()):
        value = attribute.get("text") or attribute.get("scalar") or {}
        found[attribute["name"]] = str(value.get("value", ""))
    return found


def is_preemptible(offer: Offer) -> bool:
    """Return whether an agent is preemptible, according to its attribute ``preemptible``."""
    return attributes(offer).get("preemptible", "").lower() in ("true", "yes", "1", "1.0")


def suits(offer: Offer, resources: Resources, wanted: Mapping[str, str]) -> bool:
    """Return whether tasks of a shape may run on an agent, given the attributes that agents must have."""
    has = attributes(offer)
    may_go = resources.preemptible or not is_preemptible(offer)
    return may_go and all(has.get(name) == value for name, value in wanted.items())


def cut(rest: list[dict[str, Any]], asked: Mapping[str, float]) -> list[dict[str, Any]] | None:
    """Take amounts from the resources of an offer; return None, and take nothing, if they are not enough.

    Parameters
    ----------
    rest : list of dict
        The remaining resources of an offer, which are reduced by the amounts taken.
    asked : mapping
        Amounts by the names of resources.
    """
    left = copy.deepcopy(rest)
    taken: list[dict[str, Any]] = []
    for name, amount in asked.items():
        # Use resources reserved for our role first, since no other framework can have them.
        entries = [entry for entry in left if entry["name"] == name and entry["type"] == "SCALAR"]
        for entry in sorted(entries, key=lambda entry: not entry.get("reservations")):
            part = min(amount, entry["scalar"]["value"])
            if part > 0:
                entry["scalar"]["value"] = _rounded(entry["scalar"]["value"] - part)
                taken.append({**copy.deepcopy(entry), "scalar": {"value": _rounded(part)}})
                amount = _rounded(amount - part)
        if amount > 0:
            return None
    rest[:] = left
    return taken


def _rounded(amount: float) -> float:
    """Round to three decimal digits, the precision of Mesos."""
    return round(amount, 3)
