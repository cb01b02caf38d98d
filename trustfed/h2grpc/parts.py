"""The parts of h2's connections and streams, made at little cost: what does not change is shared or kept in the class."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, H2StreamStateMachine, StreamState
from h2.windows import WindowManager
from hpack import Encoder
from hyperframe.frame import SettingsFrame

from trustfed.h2grpc.limits import Limits

CONFIG = H2Configuration(
    client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
)
METHODS = {kind: method.__name__ for kind, method in H2Connection(CONFIG)._frame_dispatch_table.items()}
"""H2Connection's method for each kind of frame."""
# What most connections never change is shared until they do: see `Quick._receive_settings_frame`.
THEIR_SETTINGS = Settings(client=True)
ENCODER = Encoder()


class _Machine(H2StreamStateMachine):
    """h2's, with what is None at first kept in the class."""

    client = headers_sent = trailers_sent = headers_received = trailers_received = None
    stream_closed_by = None

    def __init__(self, stream_id: int) -> None:
        self.state = StreamState.IDLE
        self.stream_id = stream_id


class LeanWindow(WindowManager):
    """h2's, for a size that needs no check."""

    _bytes_processed = 0

    def __init__(self, size: int) -> None:
        self.max_window_size = self.current_window_size = size


class LeanStream(H2Stream):
    """h2's, with what never changes for most streams kept in the class."""

    config = CONFIG
    request_method = _authority = _expected_content_length = None
    _actual_content_length = 0

    def __init__(self, stream_id: int, inbound: int, outbound: int, frame_size: int) -> None:
        self.state_machine = _Machine(stream_id)
        self.stream_id = stream_id
        self.max_outbound_frame_size = frame_size
        self.outbound_flow_control_window = outbound
        self._inbound_window_manager = LeanWindow(inbound)


@lru_cache(maxsize=8)
def own_settings(limits: Limits) -> tuple[Settings, bytes]:
    """Our settings, which never change and are therefore shared, and the frame that tells them."""
    settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: limits.concurrent_streams,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_list,
            SettingCodes.INITIAL_WINDOW_SIZE: max(65_535, limits.message + 5 + 16_384),
        },
    )
    return settings, SettingsFrame(0, settings=cast(dict[int, int], dict(settings))).serialize()
