"""The rules of one leg of a call: what a message means by the state it finds, and what follows.

`RULES` turns a state and an input into the next state and the action of `collector.track.call_leg`
that goes with it. RFC 3261 sections 12 to 17.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Final


class State(StrEnum):
    """Where a leg stands."""

    CALLING = "calling"
    CHALLENGED = "challenged"
    MOVED = "moved"
    CANCELLING = "cancelling"
    ANSWERED = "answered"
    UNCONFIRMED = "unconfirmed"
    CONFIRMED = "confirmed"
    ENDED = "ended"


class Input(Enum):
    """What a message, or the leg's timer, means to it."""

    INVITE = "a new try: another CSeq or another branch"
    PROVISIONAL = "1xx but 180"
    RINGING = "180"
    CHALLENGE = "401, 407, 422, 494"
    REDIRECT = "3xx"
    SUCCESS = "2xx to the INVITE"
    FAILURE = "other final response"
    CANCEL = "CANCEL"
    ACK = "ACK to the 2xx"
    BYE = "BYE of the dialog"
    REFRESH = "2xx to a re-INVITE or UPDATE"
    VANISHED = "408 or 481 to a re-INVITE, or a response to a BYE that was not seen"
    EVIDENCE = "anything else inside the dialog"
    TIMER = "the state's time is over"
    HOUR = "the call has gone on for another hour"


_S, _I = State, Input
RULES: Final[dict[tuple[State, Input], tuple[State, str]]] = {
    (_S.CALLING, _I.INVITE): (_S.CALLING, "_try"),
    (_S.CALLING, _I.PROVISIONAL): (_S.CALLING, "_prove"),
    (_S.CALLING, _I.RINGING): (_S.CALLING, "_ring"),
    (_S.CALLING, _I.CHALLENGE): (_S.CHALLENGED, "_fail"),
    (_S.CALLING, _I.REDIRECT): (_S.MOVED, "_fail"),
    (_S.CALLING, _I.SUCCESS): (_S.ANSWERED, "_answer"),
    (_S.CALLING, _I.FAILURE): (_S.ENDED, "_fail"),
    (_S.CALLING, _I.CANCEL): (_S.CANCELLING, "_cancel"),
    (_S.CALLING, _I.BYE): (_S.ENDED, "_abort"),
    (_S.CALLING, _I.EVIDENCE): (_S.CALLING, "_prove"),
    (_S.CALLING, _I.TIMER): (_S.ENDED, "_no_final"),
    (_S.CHALLENGED, _I.INVITE): (_S.CALLING, "_try"),
    (_S.CHALLENGED, _I.TIMER): (_S.ENDED, "_give_up"),
    (_S.MOVED, _I.INVITE): (_S.CALLING, "_try"),
    (_S.MOVED, _I.TIMER): (_S.ENDED, "_give_up"),
    (_S.CANCELLING, _I.INVITE): (_S.CANCELLING, "_try"),
    (_S.CANCELLING, _I.PROVISIONAL): (_S.CANCELLING, "_prove"),
    (_S.CANCELLING, _I.RINGING): (_S.CANCELLING, "_ring"),
    (_S.CANCELLING, _I.CHALLENGE): (_S.ENDED, "_fail"),
    (_S.CANCELLING, _I.REDIRECT): (_S.ENDED, "_fail"),
    (_S.CANCELLING, _I.SUCCESS): (_S.ANSWERED, "_answer"),
    (_S.CANCELLING, _I.FAILURE): (_S.ENDED, "_fail"),
    (_S.CANCELLING, _I.BYE): (_S.ENDED, "_abort"),
    (_S.CANCELLING, _I.EVIDENCE): (_S.CANCELLING, "_prove"),
    (_S.CANCELLING, _I.TIMER): (_S.ENDED, "_no_final"),
    (_S.ANSWERED, _I.SUCCESS): (_S.ANSWERED, "_lose_branch"),
    (_S.ANSWERED, _I.ACK): (_S.CONFIRMED, "_prove"),
    (_S.ANSWERED, _I.BYE): (_S.ENDED, "_hang_up"),
    (_S.ANSWERED, _I.REFRESH): (_S.ANSWERED, "_refresh"),
    (_S.ANSWERED, _I.EVIDENCE): (_S.ANSWERED, "_prove"),
    (_S.ANSWERED, _I.TIMER): (_S.UNCONFIRMED, "_unconfirmed"),
    (_S.UNCONFIRMED, _I.ACK): (_S.CONFIRMED, "_confirm_late"),
    (_S.UNCONFIRMED, _I.BYE): (_S.ENDED, "_hang_up"),
    (_S.UNCONFIRMED, _I.TIMER): (_S.ENDED, "_lose"),
    (_S.CONFIRMED, _I.BYE): (_S.ENDED, "_hang_up"),
    (_S.CONFIRMED, _I.SUCCESS): (_S.CONFIRMED, "_lose_branch"),
    (_S.CONFIRMED, _I.ACK): (_S.CONFIRMED, "_prove"),
    (_S.CONFIRMED, _I.REFRESH): (_S.CONFIRMED, "_refresh"),
    (_S.CONFIRMED, _I.VANISHED): (_S.ENDED, "_vanish"),
    (_S.CONFIRMED, _I.EVIDENCE): (_S.CONFIRMED, "_prove"),
    (_S.CONFIRMED, _I.TIMER): (_S.ENDED, "_lose"),
    (_S.CONFIRMED, _I.HOUR): (_S.CONFIRMED, "_report"),
    (_S.ENDED, _I.INVITE): (_S.CALLING, "_try"),
    (_S.ENDED, _I.BYE): (_S.ENDED, "_hang_up_late"),
}
"""Next state and action by state and input. What is not listed changes nothing: a provisional
after the answer, CANCEL after the answer, anything after the end. An action
may return another state than the table's."""
