import api_server
import pytest
import yaml
from manifests import COMPONENTS, JOBS, K8S, OVERLAYS, alone, of_kind, render


def _folder(overlay, job):
    return K8S / "overlays" / overlay / job


@pytest.fixture(
    params=[_folder(overlay, job) for overlay in OVERLAYS for job in JOBS], ids=lambda path: path.parts[-2:]
)
def folder(request):
    """Each folder that is to be applied."""
    return request.param


@pytest.fixture
def overlay(folder):
    """The name of its overlay."""
    return folder.parent.name


@pytest.fixture
def common(folder):
    """What the overlay's Jobs share."""
    shared = folder.parent / "shared"
    return render(shared) if shared.is_dir() else []


@pytest.fixture
def objects(folder):
    """What each of them makes."""
    return render(folder)


@pytest.fixture
def job(objects):
    """The Job among them."""
    (found,) = of_kind(objects, "Job")
    return found


@pytest.fixture(params=OVERLAYS)
def chain(request):
    """The objects of an overlay's three jobs, by program."""
    return {job: render(_folder(request.param, job)) for job in JOBS}


@pytest.fixture(params=COMPONENTS)
def with_component(request):
    """The trainer with one component."""
    return alone(request.param)


@pytest.fixture(
    params=[*(_folder(overlay, job) for overlay in OVERLAYS for job in JOBS), *COMPONENTS],
    ids=lambda it: it if isinstance(it, str) else "-".join(it.parts[-2:]),
)
def made(request):
    """What each folder makes, and the trainer with each component."""
    return alone(request.param) if isinstance(request.param, str) else render(request.param)


def _kubeconfig(path, url, **user):
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "mine",
                "contexts": [{"name": "mine", "context": {"cluster": "c", "user": "u", "namespace": "here"}}],
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": user or {"token": "a-token"}}],
            }
        )
    )
    return path


@pytest.fixture
def use(tmp_path, monkeypatch):
    """Makes a cluster at an address the one that the kubeconfig names."""

    def use(url, **user):
        path = _kubeconfig(tmp_path / "config", url, **user)
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))

    return use


@pytest.fixture
def api(use):
    with api_server.serving() as server:
        use(server.url)
        yield server
