"""Starting Ray on this machine with no more processes than a sweep needs, and without waiting longer than they take."""

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from ray._private import services
from ray._private.authentication import authentication_token_setup as authentication
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray._private.node import Node
from ray._private.state import GlobalState
from ray._private.utils import detect_fate_sharing_support

UNNEEDED = ("start_api_server", "start_monitor", "start_log_monitor")
"""What ``ray.init`` starts where no dashboard is wanted, no node can be added and no logs are shown: a dashboard for
usage statistics, an autoscaler and a reader of logs. Each takes CPU time from what comes before the first trial."""

READY_S = 30.0
"""What Ray itself waits for its own node."""


def _make_token(save: Callable[[], None]) -> None:
    """Makes the new Ray's token; where it cannot be kept in the home folder, this process and its own have it alone."""
    try:
        save()
    except (OSError, RuntimeError):  # it cannot be written, or there is none
        os.environ["RAY_AUTH_TOKEN"] = generate_new_authentication_token()


@contextmanager
def quick_start() -> Iterator[None]:
    """Lets ``ray.init`` start a Ray for this machine alone sooner (Ray 2.60).

    Its processes have sessions of their own, unless (on macOS) Ray ends them by the driver's group. A signal to that
    group, as of a shell that ends, would else take Ray away from a driver that waits for it to leave in good order.
    """
    node, module = cast(Any, Node), cast(Any, services)
    before, get_node = {name: getattr(node, name) for name in UNNEEDED}, module.get_node
    popen, save_token = module.ConsolePopen, authentication.generate_and_save_token

    def get_node_when_ready(gcs_address: str, node_id: str) -> Any:
        """Ray asks for its own node at once, and again only a second later."""
        state: Any = GlobalState()
        state._initialize_global_state(module._get_gcs_client_options(gcs_address))
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and all(each["NodeID"] != node_id for each in state.node_table()):
            time.sleep(0.01)
        return get_node(gcs_address, node_id)

    try:
        for name in UNNEEDED:
            setattr(node, name, lambda self, **arguments: None)
        module.get_node = get_node_when_ready
        module.ConsolePopen = functools.partial(popen, start_new_session=detect_fate_sharing_support())
        authentication.generate_and_save_token = functools.partial(_make_token, save_token)
        yield
    finally:
        module.get_node, module.ConsolePopen = get_node, popen
        authentication.generate_and_save_token = save_token
        for name, method in before.items():
            setattr(node, name, method)
