"""The sections of the JSON file that the engine reads, not the library.

Source: DeepSpeed's configuration reference.
"""

_NAMES = """
activation_checkpointing aio amp autotuning bf16 checkpoint comet comms_logger
communication_data_type compile compression_training csv_monitor data_types dump_state elasticity
flops_profiler fp16 fp32_allreduce gradient_predivide_factor hybrid_engine load_universal_checkpoint
memory_breakdown monitor_config nebula optimizer pipeline prescale_gradients scheduler seed
sequence_parallel_size sparse_attention sparse_gradients steps_per_print tensor_parallel tensorboard
timers torch_autocast use_data_before_expert_parallelism wall_clock_breakdown wandb
weight_quantization zero_allow_untested_optimizer zero_force_ds_cpu_optimizer zero_optimization
"""
DEEPSPEED_SECTIONS = frozenset(_NAMES.split())
