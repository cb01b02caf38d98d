"""All actions, in the order of their page."""

from __future__ import annotations

from functools import partial

from trustfed.errors import NotFound
from trustfed.hub.dashboard.actions import performing as do
from trustfed.hub.dashboard.actions import touched
from trustfed.hub.dashboard.actions.action import Action
from trustfed.hub.dashboard.actions.fields import (
    ACTIVE_OR_LATER,
    DOMAIN,
    ENTRIES,
    KIND,
    NODE,
    OWNER,
    PREPARED,
    SUBJECT,
    UNTIL,
)
from trustfed.hub.dashboard.actions.hub_ca import HUB_CA
from trustfed.spiffe.ids import shown

_EVERY_DAY, _AUTHORITIES, _REGISTER = "Every day", "Authorities of a trust domain", "Who answers for what"

ACTIONS: tuple[Action, ...] = (
    Action(
        "rotate",
        "Rotate now",
        "Have a cluster replace certificates before they are due, spread out as it is configured. New obligations open.",
        "operator",
        (DOMAIN, ENTRIES),
        partial(touched.ordered, "rotate"),
        do.order("rotate", do.rotation),
        _EVERY_DAY,
    ),
    Action(
        "repush",
        "Push again",
        "Send a cluster every bundle, grant and list that it shall hold once more.",
        "operator",
        (DOMAIN,),
        touched.sent_again,
        do.send_again,
        _EVERY_DAY,
    ),
    Action(
        "refresh",
        "Refresh",
        "Have a cluster fetch the bundles that it accepts anew from where they are published.",
        "operator",
        (DOMAIN,),
        partial(touched.ordered, "refresh"),
        do.order("refresh", do.nothing),
        _EVERY_DAY,
    ),
    Action(
        "republish",
        "Republish",
        "Have a cluster sign and offer its own bundle anew.",
        "operator",
        (DOMAIN,),
        partial(touched.ordered, "republish"),
        do.order("republish", do.nothing),
        _EVERY_DAY,
    ),
    Action(
        "publish",
        "Publish again",
        "Bring a trust domain's bundle to every target of the hub's publication once more.",
        "operator",
        (DOMAIN,),
        touched.published_again,
        do.publish_again,
        _EVERY_DAY,
    ),
    Action(
        "quarantine",
        "Quarantine a node",
        "Have a cluster issue nothing to a node any more, until somebody lets it in again there.",
        "admin",
        (DOMAIN, NODE),
        touched.node,
        do.order("quarantine", lambda values: {"node": values["node"]}),
        _EVERY_DAY,
        danger=True,
        learn=touched.on_node,
    ),
    Action(
        "prepare",
        "Begin a rollover",
        "Prepare a successor of a domain's authority and distribute it. It signs nothing yet.",
        "admin",
        (DOMAIN, KIND),
        partial(touched.ordered, "prepare"),
        do.order_of_two("prepare", "kind"),
        _AUTHORITIES,
        people=2,
    ),
    Action(
        "activate",
        "Advance a rollover",
        "Let a prepared authority sign from now on, whoever has not confirmed it.",
        "admin",
        (DOMAIN, PREPARED),
        partial(touched.authority, "activate"),
        do.order_of_two("activate", "authority"),
        _AUTHORITIES,
        people=2,
        danger=True,
    ),
    Action(
        "pause",
        "Pause a rollover",
        "Let a rollover wait for people, until its last safe moment.",
        "admin",
        (DOMAIN, KIND),
        partial(touched.ordered, "pause"),
        do.order_of_two("pause", "kind"),
        _AUTHORITIES,
        people=2,
    ),
    Action(
        "resume",
        "Resume a rollover",
        "Let a paused rollover go on by its policy.",
        "admin",
        (DOMAIN, KIND),
        partial(touched.ordered, "resume"),
        do.order_of_two("resume", "kind"),
        _AUTHORITIES,
        people=2,
    ),
    Action(
        "taint",
        "Taint an authority",
        "Trust an authority no longer: everything that it signed is replaced at once.",
        "admin",
        (DOMAIN, ACTIVE_OR_LATER),
        partial(touched.authority, "taint"),
        do.order_of_two("taint", "authority"),
        _AUTHORITIES,
        people=2,
        danger=True,
    ),
    *HUB_CA,
    Action(
        "exception",
        "Make an exception",
        "Answer for something that is known to be wrong, for a time. Figures count it all the same.",
        "operator",
        (DOMAIN, SUBJECT, UNTIL),
        touched.exception,
        do.make_exception,
        _REGISTER,
    ),
    Action(
        "owner",
        "Change the owner",
        "Write down who answers for a trust domain from now on.",
        "admin",
        (DOMAIN, OWNER),
        touched.owner,
        do.change_owner,
        _REGISTER,
    ),
)
_BY_KIND = {action.kind: action for action in ACTIONS}


def action_named(kind: str) -> Action:
    """The action of this kind. Raises NotFound."""
    found = _BY_KIND.get(kind)
    if found is None:
        raise NotFound(f"there is no action {shown(kind)}", hint="open the list of actions")
    return found
