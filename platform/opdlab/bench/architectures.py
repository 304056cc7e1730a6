"""Architectures of transformers, as settings of tiny models: what differs from one common shape."""

from __future__ import annotations

from typing import Any

VOCABULARY = 53

TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPE = {
    **TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}

_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED = {
    **_EXPERTS,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
}
_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
_WINDOW = {"sliding_window": 7}

# What differs from `SHAPE`. Windows and chunks are shorter than the rollouts of the tests.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama4": {
        "model_type": "llama4_text",
        "attention_chunk_size": 6,
        "num_local_experts": 4,
        "intermediate_size_mlp": 48,
        "interleave_moe_layer_step": 2,
        "no_rope_layers": [1, 1, 0],
    },
    "qwen2": {},
    "qwen2_moe": {**_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3": {},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4},
    "mistral": _WINDOW,
    "mixtral": {**_WINDOW, "num_local_experts": 4},
    "gemma": {},
    # Caps low enough to matter.
    "gemma2": {
        **_WINDOW,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 4.0,
    },
    "gemma3": {**_WINDOW, "model_type": "gemma3_text", "query_pre_attn_scalar": 8},
    "phi": {},
    "phi3": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": _WINDOW,
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    # These two scale logits to next to nothing unless told otherwise.
    "cohere": {"logit_scale": 1.0},
    "cohere2": {**_WINDOW, "logit_scale": 1.0},
    "granite": {
        "logits_scaling": 0.5,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
    },
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "smollm3": {},
    "starcoder2": _WINDOW,
    "glm": {},
    "glm4": {},
    "glm4_moe": _ROUTED,
    "gpt_oss": {**_WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": {**_ROUTED, **_LATENT},
    "deepseek_v3": {**_ROUTED, **_LATENT},
    "dots1": _ROUTED,
    "gpt_neox": {},
    "gpt2": _GPT2,
    "gpt_bigcode": {**_GPT2, "n_inner": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "stablelm": {},
    "nemotron": {},
    "persimmon": {},
    "exaone4": _WINDOW,
    "ernie4_5": {},
    "hunyuan_v1_dense": {},
    "seed_oss": {},
    "apertus": {},
    "arcee": {},
    "helium": {},
    "bitnet": {},
    "ministral": _WINDOW,
    "modernbert-decoder": {},
    "lfm2": {},
    "biogpt": {},
    # Out of the tree's reach: linear biases, or attention of their own.
    "bloom": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3},
    "gptj": {**_GPT2, "rotary_dim": 4},
    "diffllama": {},
}
_LINEAR = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_DELTA = {
    **_LINEAR,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_SHARED_EXPERT = {**_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16}
_SSD = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_chunk_size": 16,
}
# Layers that keep a recurrent state: gated delta nets, convolutions, Mamba, linear attention.
RECURRENT: dict[str, dict[str, Any]] = {
    "qwen3_next": {**_DELTA, **_SHARED_EXPERT},
    "qwen3_5": {**_DELTA, "model_type": "qwen3_5_text"},
    "qwen3_5_moe": {**_DELTA, **_SHARED_EXPERT, "model_type": "qwen3_5_moe_text"},
    "olmo_hybrid": _DELTA,
    "kimi_linear": {
        **_LINEAR,
        **_EXPERTS,
        **_LATENT,
        "q_lora_rank": None,
        "v_head_dim": 8,
        "linear_num_heads": 4,
        "linear_head_dim": 8,
        "num_local_experts": 4,
        "n_group": 1,
        "topk_group": 1,
    },
    "lfm2-conv": {"model_type": "lfm2", "layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {
        **_EXPERTS,
        "layer_types": ["conv", "full_attention", "conv"],
        "num_experts": 4,
        "num_dense_layers": 1,
    },
    "bamba": {**_SSD, "attn_layer_indices": [1]},
    "nemotron_h": {
        **_EXPERTS,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "moe"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 16,
        "n_routed_experts": 4,
        "moe_shared_expert_intermediate_size": 16,
    },
    "granitemoehybrid": {
        **_LINEAR,
        **_SSD,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 16,
        "logits_scaling": 0.5,
    },
    "falcon_h1": {**_SSD, "mamba_d_ssm": 64},
    "mamba2": {
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 8,
        "n_groups": 2,
        "chunk_size": 16,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
        "mamba_d_state": 8,
        "n_mamba_heads": 8,
        "num_key_value_heads": 4,
        "chunk_size": 16,
    },
    "minimax": {**_LINEAR, "num_local_experts": 4, "block_size": 16},
    "jamba": {
        "mamba_d_state": 8,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "recurrent_gemma": {"lru_width": 32, "sliding_window": 7, "attention_window_size": 7},
}
_TWO_KINDS: dict[str, Any] = {
    **_WINDOW,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
}
# Their rotary frequencies depend on the longest position of a forward.
STRETCHED: dict[str, dict[str, Any]] = {
    "llama-dynamic": {
        "model_type": "llama",
        "max_position_embeddings": 16,
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    },
    "phi3-longrope": {
        "model_type": "phi3",
        "original_max_position_embeddings": 16,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 16,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0, 3.0, 4.0, 5.0],
        },
    },
    # Frequencies of one kind of layers.
    "gemma3-dynamic": {
        "model_type": "gemma3_text",
        **_TWO_KINDS,
        "max_position_embeddings": 16,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
        },
    },
    "gemma3-longrope": {
        "model_type": "gemma3_text",
        **_TWO_KINDS,
        "max_position_embeddings": 64,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0, 3.0, 4.0, 5.0],
            },
        },
    },
}
# Layers that keep state in a way of their own, or count the tokens of a forward or cache themselves.
OWN_WAYS: dict[str, dict[str, Any]] = {
    "llama4-floor": {
        **FAMILIES["llama4"],
        "floor_scale": 16,
        "attn_scale": 0.5,
        "attention_chunk_size": 64,
    },
    "rwkv": {"attention_hidden_size": 32},
}
# Indexers of so many heads that score keys by sums of what is above 0: of few heads, many scores tie at 0.
_INDEXED = {**_ROUTED, **_LATENT, "index_topk": 8, "index_head_dim": 16}
INDEXED: dict[str, dict[str, Any]] = {
    "deepseek_v32": {**_INDEXED, "index_n_heads": 64},
    "deepseek_v32-ties": {**_INDEXED, "model_type": "deepseek_v32", "index_n_heads": 2},
    "glm_moe_dsa-ties": {**_INDEXED, "model_type": "glm_moe_dsa", "index_n_heads": 2},
}
OUT_OF_REACH = ("bloom", "mpt", "gptj", "diffllama")
