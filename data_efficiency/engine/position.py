"""Where a training stands: its settings, the counters of finished steps, and how large the present step is."""

from dataclasses import replace

from data_efficiency.accounting import Counters, ModelShape
from data_efficiency.config import Config, DataEfficiencyConfig, RandomLTDConfig
from data_efficiency.engine.protocol import TokenRouter
from data_efficiency.engine.ranks import Ranks
from data_efficiency.sampling.loader import CurriculumDataLoader


class Position:
    """Where an engine stands.

    The step number has one owner: `counters.steps`. `global_steps` is its published name; loader,
    sampler and router are told it.
    """

    json_config: Config
    """The whole JSON file, parsed."""
    ranks: Ranks
    counters: Counters
    """Of all finished steps, the same on every process."""
    micro_steps: int
    """Micro-batches of this process in all finished steps and the present one."""
    model_shape: ModelShape | None
    """What FLOPs are counted by; None counts none."""
    training_dataloader: CurriculumDataLoader | None
    random_ltd_scheduler: TokenRouter | None
    _micro_batch_size: int
    _plain_accumulation: int
    """Micro-batches of a step on this process, where `batch_size` does not say it."""

    def _begin(self, config: Config, ranks: Ranks) -> None:
        """Stand before the first step."""
        self.json_config, self.ranks = config, ranks
        sizes = config.batch_sizes(ranks.data_parallel_size)
        self._micro_batch_size, self._plain_accumulation = sizes
        self.counters = Counters()
        self.model_shape = None
        self.training_dataloader = None
        self.random_ltd_scheduler = None

    @property
    def global_steps(self) -> int:
        """Optimizer steps finished; the published name of `counters.steps`."""
        return self.counters.steps

    @global_steps.setter
    def global_steps(self, value: int) -> None:
        self.counters = replace(self.counters, steps=value)

    @property
    def data_efficiency_config(self) -> DataEfficiencyConfig:
        """Our section of the JSON file, parsed; closed by the model once it is converted."""
        section, router = self.json_config.data_efficiency, self.random_ltd_scheduler
        return section if router is None else section.with_routing(router.settings)

    @property
    def num_layers(self) -> int:
        """Layers of the model, for counting; 1 where neither its shape nor its routes tell."""
        if self.model_shape is not None:
            return self.model_shape.num_layers
        if self.random_ltd_scheduler is not None:
            return self.random_ltd_scheduler.settings.num_layers
        dropping = self.data_efficiency_config.random_ltd
        return dropping.total_layer_num if isinstance(dropping, RandomLTDConfig) else 1

    def random_ltd_enabled(self) -> bool:
        """Whether the JSON switches token dropping on."""
        return self.data_efficiency_config.random_ltd is not None

    def curriculum_learning_enabled(self) -> bool:
        """Whether the JSON switches curriculum sampling on."""
        return self.data_efficiency_config.has_curriculum

    @property
    def _num_dropping(self) -> int:
        dropping = self.data_efficiency_config.random_ltd
        return dropping.random_ltd_layer_num if isinstance(dropping, RandomLTDConfig) else 0

    @property
    def _accumulation(self) -> int:
        """Micro-batches of the present step on this process."""
        loader = self.training_dataloader
        if loader is None or self.json_config.data_efficiency.batch_size is None:
            return self._plain_accumulation
        return loader.sampler.num_micro_batches(self.counters.steps + 1)

    @property
    def _num_samples(self) -> int:
        """Samples of the present step, over all processes."""
        rows = self._micro_batch_size * self._accumulation * self.ranks.data_parallel_size
        loader = self.training_dataloader
        if loader is not None and self.json_config.data_efficiency.has_constant_tokens:
            return rows * loader.sampler.samples_per_row(self.counters.steps + 1)
        return rows * self._tokens_per_position

    @property
    def _tokens_per_position(self) -> int:
        """Tokens that a position stands for in the present step."""
        superposition = self.json_config.data_efficiency.token_superposition
        steps = self.counters.steps
        return 1 if superposition is None else superposition.tokens_per_position(steps)

    def _number_in_step(self, micro_batch: int) -> int:
        """Which micro-batch of the global batch this process's `micro_batch` is, from 0."""
        return self.ranks.data_parallel_rank * self._accumulation + micro_batch

    def _go_to_step_begin(self) -> None:
        """Stand before the first micro-batch of the step that `counters` say."""
        self.micro_steps = self.counters.steps * self._accumulation
