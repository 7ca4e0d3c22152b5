"""The calls that schedulers send, after ``v1/scheduler.proto`` and ``v1/mesos.proto``, and a check of them."""

from __future__ import annotations

from typing import Any

MESSAGES: dict[str, dict[str, str]] = {
    "ID": {"value": "str!"},
    "Call": {
        "type": "str!", "framework_id": "ID", "subscribe": "Subscribe", "accept": "Accept", "decline": "Decline",
        "kill": "Kill", "acknowledge": "Acknowledge", "reconcile": "Reconcile",
    },
    "Subscribe": {"framework_info": "FrameworkInfo!", "suppressed_roles": "[str]"},
    "FrameworkInfo": {
        "user": "str!", "name": "str!", "id": "ID", "failover_timeout": "float", "checkpoint": "bool",
        "roles": "[str]", "hostname": "str", "principal": "str", "capabilities": "[Capability]",
    },
    "Capability": {"type": "str!"},
    "Filters": {"refuse_seconds": "float"},
    "Accept": {"offer_ids": "[ID]", "operations": "[Operation]", "filters": "Filters"},
    "Decline": {"offer_ids": "[ID]", "filters": "Filters"},
    "Operation": {"type": "str!", "launch": "Launch!"},
    "Launch": {"task_infos": "[TaskInfo]"},
    "TaskInfo": {
        "name": "str!", "task_id": "ID!", "agent_id": "ID!", "resources": "[Resource]", "executor": "ExecutorInfo!",
        "data": "str",
    },
    "ExecutorInfo": {
        "executor_id": "ID!", "framework_id": "ID", "type": "str", "name": "str", "source": "str",
        "command": "CommandInfo!", "resources": "[Resource]", "container": "any",
    },
    "CommandInfo": {"shell": "bool", "value": "str", "arguments": "[str]", "environment": "Environment"},
    "Environment": {"variables": "[Variable]"},
    "Variable": {"name": "str!", "type": "str", "value": "str"},
    "Resource": {
        "name": "str!", "type": "str!", "scalar": "Scalar!", "allocation_info": "Allocation", "reservations": "[any]",
    },
    "Scalar": {"value": "float!"},
    "Allocation": {"role": "str"},
    "Kill": {"task_id": "ID!", "agent_id": "ID"},
    "Acknowledge": {"agent_id": "ID!", "task_id": "ID!", "uuid": "str!"},
    "Reconcile": {"tasks": "[ReconcileTask]"},
    "ReconcileTask": {"task_id": "ID!", "agent_id": "ID"},
}  # fmt: skip
"""For each message its fields: a type, ``!`` where it must be there, brackets where it is repeated."""

BODIES = {
    "SUBSCRIBE": "subscribe", "ACCEPT": "accept", "DECLINE": "decline", "KILL": "kill", "RECONCILE": "reconcile",
    "ACKNOWLEDGE": "acknowledge", "REVIVE": "", "SUPPRESS": "", "TEARDOWN": "",
}  # fmt: skip


class CallError(Exception):
    """A call that the real master answers with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check(kind: str, value: Any, where: str = "call") -> None:
    """Check a value against a message."""
    plain = {"str": str, "bool": bool, "float": (int, float), "any": object}
    kind = kind.rstrip("!")
    if kind.startswith("["):
        if not isinstance(value, list):
            raise CallError(400, f"{where} must be repeated")
        for item in value:
            check(kind[1:-1], item, where)
    elif kind in plain:
        if not isinstance(value, plain[kind]):  # type: ignore[arg-type]
            raise CallError(400, f"{where} must be a {kind}, not {value!r}")
    else:
        for name in value.keys() - MESSAGES[kind].keys():
            raise CallError(400, f"{where} has no field {name}")
        for name, inner in MESSAGES[kind].items():
            if name in value:
                check(inner, value[name], f"{where}.{name}")
            elif inner.endswith("!"):
                raise CallError(400, f"{where} lacks {name}")
