"""Parts of the JSON section `data_efficiency` that many tests give; keyword arguments change them."""


def random_ltd(num_layers=4, least=4, most=32, steps=16, step_size=4, **changes):
    """Token dropping in all layers but the first and the last; `least` to `most` tokens are kept."""
    return {
        "enabled": True,
        "total_layer_num": num_layers,
        "random_ltd_layer_num": num_layers - 2,
        "random_ltd_layer_id": list(range(1, num_layers - 1)),
        "model_mask_name": None,
        "model_type": "decoder",
        "hidden_state_order": "batch_seq_dim",
        "random_ltd_schedule": {
            "min_value": least,
            "max_value": most,
            "schedule_type": "fixed_linear",
            "schedule_config": {"require_steps": steps, "seq_per_step": step_size},
        },
    } | changes


def dropping_config(**settings):
    """A configuration of nothing but token dropping; arguments as of `random_ltd`."""
    routing = {"enabled": True, "random_ltd": random_ltd(**settings)}
    return {"train_batch_size": 4, "data_efficiency": {"enabled": True, "data_routing": routing}}


def curriculum_config(metrics, **sampling):
    """A configuration of nothing but metrics, and what else stands beside `curriculum_learning`."""
    learning = {"enabled": True, "curriculum_metrics": metrics}
    return {"data_efficiency": {"data_sampling": {"curriculum_learning": learning} | sampling}}


def metric(index_path="nowhere", *, steps=12, least=10, **changes):
    """A metric that selects samples: the easiest `least` to 100 percent."""
    return {
        "index_path": str(index_path),
        "difficulty_type": "percentile",
        "clustering_type": "schedule_based",
        "min_difficulty": least,
        "max_difficulty": 100,
        "schedule_type": "fixed_root",
        "schedule_config": {"total_curriculum_step": steps, "difficulty_step": 1, "root_degree": 2},
    } | changes


def length_metric(least=8, most=64, *, steps=12, step_size=8, **changes):
    """A metric that gives the rows `least` to `most` tokens."""
    return {
        "difficulty_type": "value",
        "clustering_type": "single_cluster",
        "min_difficulty": least,
        "max_difficulty": most,
        "schedule_type": "fixed_linear",
        "schedule_config": {"total_curriculum_step": steps, "difficulty_step": step_size},
    } | changes


def sorting_metric(index_path="nowhere", **changes):
    """A metric that sorts all samples."""
    return {"index_path": str(index_path), "clustering_type": "sorted"} | changes
