"""The policy as it was before reinforcement learning: what its KL is measured against."""

import contextlib
import copy
from collections.abc import Iterator

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from models.explainer import Explainer


def freeze_reference(policy: Explainer) -> Explainer | None:
    """Freezes soft vectors, and keeps the policy as it is now as reference.

    With adapters that is a frozen second adapter on the same weights (None is returned), else a frozen copy.
    """
    for name, parameter in policy.named_parameters():
        if not name.startswith("lm."):
            parameter.requires_grad_(False)
    if not isinstance(policy.lm, PeftModel):
        return copy.deepcopy(policy).requires_grad_(False)
    policy.lm.add_adapter("reference", policy.lm.peft_config["default"])
    state = policy.lm.state_dict()
    for name, parameter in policy.lm.named_parameters():
        if ".reference." in name:
            parameter.data.copy_(state[name.replace(".reference.", ".default.")])
            parameter.requires_grad_(False)
    policy.lm.set_adapter("default")
    return None


@contextlib.contextmanager
def reference_adapter(lm: nn.Module) -> Iterator[None]:
    """Reads the reference adapter inside. PEFT's own switch would also change what requires gradients."""
    layers = [module for module in lm.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._active_adapter = ["reference"]
    try:
        yield
    finally:
        for layer in layers:
            layer._active_adapter = ["default"]
