import faulty_proxy
import pytest

from boceto import storage
from boceto.stores import gs
from boceto.stores.gs import RetryLimits

QUICK = RetryLimits(deadline=30.0, first_delay=0.01, longest_delay=0.05, connect=5.0, silence=5.0)


@pytest.fixture
def patience():
    return QUICK


@pytest.fixture
def proxy(emulator, monkeypatch, patience):
    """The port's gs:// speaks to the emulator through the proxy."""
    with faulty_proxy.FaultyProxy(emulator.url) as proxy:
        store = gs.Store(patience, proxy.url)
        monkeypatch.setattr(gs, "Store", lambda: store)
        storage._of_scheme.cache_clear()
        yield proxy


@pytest.fixture
def url(emulator, proxy):
    assert proxy
    return storage.join(emulator.bucket, "folder", "a name?.txt")
