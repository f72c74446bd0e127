"""A run's forward passes as its model sees them."""

from dataclasses import replace

from megatron.model.transformer import TransformerLayer


class SeenBatches:
    """What the forward passes of a run were given: dictionaries of the model's arguments."""

    def __init__(self):
        self.layer_tokens = 0
        self.training, self.evaluation = [], []
        self.evaluated_lengths = set()
        """Lengths of what layers were given in evaluation forwards."""

    def total(self, count):
        """The sum of `count(batch)` over the training forwards."""
        return sum(int(count(batch)) for batch in self.training)

    def watch(self, monkeypatch, script):
        """Lets all models of the entry script tell what they are given."""
        task = script.TASK

        def make_model(config):
            model = task.make_model(config)
            model.register_forward_pre_hook(self._see_model, with_kwargs=True)
            for layer in model.modules():
                if isinstance(layer, TransformerLayer):
                    # Inside the layer, behind the routing: it sees only the kept tokens.
                    layer.input_layernorm.register_forward_pre_hook(self._see_layer)
            return model

        monkeypatch.setattr(script, "TASK", replace(task, make_model=make_model))
        return self

    def _see_model(self, module, arguments, keywords):
        batch = {"tokens": arguments[0], **keywords}
        (self.training if module.training else self.evaluation).append(batch)

    def _see_layer(self, module, arguments):
        num_rows, length = arguments[0].shape[:2]
        if module.training:
            self.layer_tokens += num_rows * length
        else:
            self.evaluated_lengths.add(length)
