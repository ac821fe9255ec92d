"""Decoding only what sampling needs: H.264 frames that no other frame needs and no sample falls on are left out.

About half of the frames that today's encoders write are needed by no other (nal_ref_idc 0, ITU-T H.264 7.4.1). FFmpeg
leaves such a frame out when `skip_frame` says so as its packet arrives, so this is decided packet by packet, with
a look ahead that tells when the next frame is shown. All other frames come out as ever, to the last bit. Whatever is
out of the ordinary (damage, a frame that does not come, a missing clock, interlacing) raises SkippingUnsure, and the
caller decodes in full. Knows packets and the grid; knows nothing of pixels.
"""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from models.grid import may_be_sampled

# Frames are reordered by at most 16 (ITU-T H.264 A.3.1, MaxDpbFrames): so many packets on either side hold a frame's
# successor on screen.
_LOOK_AHEAD = 36
_CONTAINERS = ("mov", "matroska")  # they store a time for each frame


class SkippingUnsure(Exception):
    """Something is out of the ordinary; not an error of the file's, and never shown to anybody."""


def can_skip(stream: Any) -> bool:
    """Return whether `decode_sampled` knows the stream's codec and container."""
    is_known = stream.container.format.name.startswith(_CONTAINERS)
    return bool(is_known and stream.codec_context.codec.canonical_name == "h264" and stream.time_base)


def decode_sampled(stream: Any, fps: float, part: tuple[Fraction, Fraction] | None = None) -> Iterator[Any]:
    """Yield the decoder's frames, of which those that are never on screen at an instant k / fps may be missing.

    part: after a seek, presentation timestamps of the video's first displayed frame and of the first frame that
          counts, seconds; whether frames before that are sound is for the caller to see
    The first frames, up to the first that comes out, and the last are never left out. Raises SkippingUnsure.
    """
    plan = _Plan(stream.time_base, fps, part)
    waiting: deque[Any] = deque()
    try:
        for packet in stream.container.demux(stream):
            if not packet.size:
                break
            if packet.is_discard:  # an edit list cuts it away; the decoder needs it all the same
                yield from map(plan.check, packet.decode())
                continue
            plan.see(packet.pts)
            waiting.append(packet)
            if len(waiting) > _LOOK_AHEAD:
                now = waiting.popleft()
                stream.codec_context.skip_frame = "NONREF" if plan.is_left_out(now.pts) else "DEFAULT"
                yield from map(plan.check, now.decode())
        stream.codec_context.skip_frame = "DEFAULT"
        for packet in waiting:
            plan.must_come(packet.pts)
            yield from map(plan.check, packet.decode())
        yield from map(plan.check, stream.codec_context.decode(None))
        plan.check_all_came()
    except av.FFmpegError:
        raise SkippingUnsure from None


class _Plan:
    """Which frames are on the grid, by the times of the packets around them."""

    def __init__(self, time_base: Fraction, fps: float, part: tuple[Fraction, Fraction] | None) -> None:
        self.time_base, self.fps = time_base, fps
        self.origin: Fraction | None = part[0] if part else None
        self.start: Fraction | None = part[1] if part else None  # of what counts
        self.recent: deque[int] = deque()  # presentation times of the packets around, ticks, in order of decoding
        self.ordered: list[int] = []  # the same in order of display
        self.expected: list[int] = []  # of frames that must still come out, in order of display

    def see(self, pts: int | None) -> None:
        """Take the presentation time of the next packet."""
        if pts is None:
            raise SkippingUnsure
        self.recent.append(pts)
        insort(self.ordered, pts)
        if len(self.recent) > 2 * _LOOK_AHEAD:
            self.ordered.remove(self.recent.popleft())

    def is_left_out(self, pts: int) -> bool:
        """Return whether no sample falls on the frame shown at `pts`; it must come out otherwise."""
        after = bisect_right(self.ordered, pts)
        if self.origin is not None and after < len(self.ordered):
            time_s, next_s = (float(ticks * self.time_base - self.origin) for ticks in (pts, self.ordered[after]))
            if not may_be_sampled(time_s, next_s, self.fps):
                return True
        self.must_come(pts)
        return False

    def must_come(self, pts: int) -> None:
        """Expect the frame shown at `pts`, unless it lies before the first that counts."""
        if self.start is not None and pts * self.time_base >= self.start:
            insort(self.expected, pts)

    def check(self, frame: Any) -> Any:
        """Return `frame` where it is sound, progressive and the next that was expected, or one that was not asked."""
        if frame.interlaced_frame or frame.pts is None:
            raise SkippingUnsure
        if self.start is None:
            self.origin = self.start = frame.pts * self.time_base
        if frame.is_corrupt and frame.pts * self.time_base >= self.start:
            raise SkippingUnsure
        if self.expected and self.expected[0] < frame.pts:
            raise SkippingUnsure
        if self.expected and self.expected[0] == frame.pts:
            del self.expected[0]
        return frame

    def check_all_came(self) -> None:
        """Raise SkippingUnsure where a frame that was expected has not come out by the end."""
        if self.expected:
            raise SkippingUnsure
