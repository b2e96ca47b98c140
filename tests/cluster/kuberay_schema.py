"""An extract of KubeRay's published types (ray.io/v1, KubeRay 1.6), as a JSON schema.

It knows the fields that a file of this project might use, and refuses all others: a field that the
operator does not know is dropped by Kubernetes without a word.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
YES_OR_NO = {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
# A number, or one with a unit such as 16Gi.
QUANTITY = {"type": ["integer", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}


def strict(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Return an object with these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def listed(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


METADATA = strict(("name",), name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
VOLUME = strict(
    ("name",),
    name=TEXT,
    persistentVolumeClaim=strict(
        ("claimName",),
        claimName=TEXT,
        readOnly=YES_OR_NO,
    ),
    emptyDir=strict(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY),
    secret=strict(secretName=TEXT),
)
CONTAINER = strict(
    ("name", "image"),
    name=TEXT,
    image=TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    workingDir=TEXT,
    command=listed(TEXT),
    args=listed(TEXT),
    env=listed(strict(("name",), name=TEXT, value=TEXT)),
    resources=strict(requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=listed(
        strict(("name", "mountPath"), name=TEXT, mountPath=TEXT, subPath=TEXT, readOnly=YES_OR_NO)
    ),
)
TOLERATION = strict(
    key=TEXT,
    operator={"enum": ["Exists", "Equal"]},
    value=TEXT,
    effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
    tolerationSeconds=WHOLE,
)
POD = strict(
    ("containers",),
    containers=listed(CONTAINER),
    volumes=listed(VOLUME),
    nodeSelector=TEXTS,
    tolerations=listed(TOLERATION),
    priorityClassName=TEXT,
    serviceAccountName=TEXT,
    terminationGracePeriodSeconds=WHOLE,
)
TEMPLATE = strict(("spec",), metadata=strict(labels=TEXTS, annotations=TEXTS), spec=POD)
HEAD = strict(
    ("template",),
    rayStartParams=TEXTS,
    serviceType=TEXT,
    template=TEMPLATE,
    resources=TEXTS,
    labels=TEXTS,
)
WORKERS = strict(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    groupName=TEXT,
    replicas=WHOLE,
    minReplicas=WHOLE,
    maxReplicas=WHOLE,
    idleTimeoutSeconds=WHOLE,
    numOfHosts=WHOLE,
    suspend=YES_OR_NO,
    rayStartParams=TEXTS,
    template=TEMPLATE,
    resources=TEXTS,
    labels=TEXTS,
)
CLUSTER = strict(
    ("headGroupSpec",),
    rayVersion=TEXT,
    suspend=YES_OR_NO,
    authOptions=strict(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling=YES_OR_NO,
    autoscalerOptions=strict(
        idleTimeoutSeconds=WHOLE,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        version={"enum": ["v1", "v2"]},
    ),
    headGroupSpec=HEAD,
    workerGroupSpecs=listed(WORKERS),
)
JOB = strict(
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    backoffLimit=WHOLE,
    activeDeadlineSeconds=WHOLE,
    shutdownAfterJobFinishes=YES_OR_NO,
    ttlSecondsAfterFinished=WHOLE,
    suspend=YES_OR_NO,
    submissionMode=TEXT,
    rayClusterSpec=CLUSTER,
)

WANTED = ("apiVersion", "kind", "metadata", "spec")


def schema_of(kind: str) -> dict[str, Any]:
    """Return the schema of a RayJob or a RayCluster."""
    return strict(
        WANTED,
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=METADATA,
        spec={"RayJob": JOB, "RayCluster": CLUSTER}[kind],
    )
