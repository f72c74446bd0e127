"""Random-LTD as a slow and obvious loop over rows, for layers of any of the known classes."""

import inspect

import torch

from tests.data_efficiency.small_models import DROPPING


def drop_in_a_loop(layers, positions):
    """Makes the layers DROPPING treat each row by itself at positions[number, row]."""
    for number, layer_id in enumerate(DROPPING):
        layers[layer_id].forward = _loop(layers[layer_id].forward, positions[number])


def _loop(original, positions):
    signature = inspect.signature(original)

    def forward(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        hidden = args[0]
        rows = []
        for row, chosen in enumerate(positions):
            only = {name: _one_row(name, value, row, chosen) for name, value in named(bound)}
            hidden_name = next(iter(signature.parameters))
            only[hidden_name] = hidden[row, chosen][None]
            result = original(only.pop(hidden_name), **only)
            full = hidden[row].clone()
            for place, position in enumerate(chosen):
                full[position] = result[0, place]
            rows.append(full)
        return torch.stack(rows)

    return forward


def named(bound):
    for name, value in bound.arguments.items():
        if bound.signature.parameters[name].kind == inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def _one_row(name, value, row, chosen):
    """What one row's kept tokens need of an argument."""
    if value is None or name in ("past_key_values", "use_cache"):
        return None
    if name == "position_embeddings":
        return tuple(_one_row("position_ids", table, row, chosen) for table in value)
    if name in ("position_ids", "rotary_cos", "rotary_sin"):
        return value[min(row, len(value) - 1), chosen][None]
    if name in ("attention_mask", "attn_mask"):
        mask = value[min(row, len(value) - 1)]
        if mask.dim() == 1:
            return mask[chosen][None]
        if mask.shape[-2] > 1:
            mask = mask[:, chosen]
        return mask[:, :, chosen][None]
    return value


def loss_and_gradients(model, output):
    """A scalar in which every output counts differently, and the gradients of all parameters."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    loss = (output * weights).sum()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return loss.detach(), found
