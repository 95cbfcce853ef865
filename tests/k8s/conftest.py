import os

import pytest
from manifests import COMPONENTS, JOBS, K8S, OVERLAYS, of_kind, render


def _folder(overlay, job):
    return K8S / "overlays" / overlay / job


@pytest.fixture(
    params=[_folder(overlay, job) for overlay in OVERLAYS for job in JOBS], ids=lambda path: path.parts[-2:]
)
def folder(request):
    """Each folder that is to be applied."""
    return request.param


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
def with_component(request, tmp_path):
    """The trainer with one component and nothing else: each works by itself."""
    base, component = (os.path.relpath(K8S / part, tmp_path) for part in ("base/train", f"components/{request.param}"))
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{base}]\ncomponents: [{component}]\n")
    return render(tmp_path)
