"""The table: every hook, registry, private name and overridden method of SGLang that we use.

``tree.py`` has the part that is SGLang's tree. What stands in for SGLang's kernels on a machine
without an accelerator is in ``cpu.replacements``, in the same form.
"""

from __future__ import annotations

from sglang_marconi.seams.forward import FORWARD_SEAMS
from sglang_marconi.seams.seam import Kind, Seam
from sglang_marconi.seams.tree import TREE_SEAMS

_SRT = "sglang.srt"
_ADDER = f"{_SRT}.managers.schedule_policy.PrefillAdder"
_REQUEST = f"{_SRT}.managers.schedule_batch.Req"
_SCHEDULER = f"{_SRT}.managers.scheduler.Scheduler"
_INTERNAL_STATE = f"{_SRT}.managers.scheduler_components.internal_state"
_CONFIGURATOR = f"{_SRT}.mem_cache.kv_cache_configurator.KVCacheConfigurator"
_POOLS = f"{_SRT}.mem_cache.memory_pool"
_INIT_PARAMS = f"{_SRT}.mem_cache.cache_init_params.CacheInitParams"
_KV_EVENTS = f"{_SRT}.mem_cache.events.KVCacheEventRecorder"
HTTP = f"{_SRT}.entrypoints.http_server"
"""The module of SGLang's HTTP server."""
_OPENAI = f"{_SRT}.entrypoints.openai"
_CHAT = f"{_OPENAI}.serving_chat.OpenAIServingChat"
_ANTHROPIC = f"{_SRT}.entrypoints.anthropic.serving"
_TOKENIZER = f"{_SRT}.managers.tokenizer_manager.TokenizerManager"

RESOLVE = Seam(
    f"{_SRT}.server_args.ServerArgs.resolve_once",
    "self",
    Kind.AFTER,
    "read the settings once; refuse bad use before the load",
)
PUBLISH = Seam(
    f"{_SRT}.runtime_context.publish",
    "server_args, role, hf_config, ranks",
    Kind.AFTER,
    "the hooks of the store and of the live view, if asked for",
)
SELECT_ADMISSION = Seam(
    f"{_ADDER}._select_prefill_admission",
    "self, req, total_tokens, host_hit_length, swa_host_hit_length, truncation_align_size, "
    "has_chunked_req",
    Kind.AROUND,
    "end a first chunk on the branch, where states cannot be taken inside a pass",
)
ADD_CHUNKED = Seam(
    f"{_ADDER}.add_chunked_req", "self, req", Kind.AROUND, "end a later chunk on the branch, too"
)
PREFILL_ROUND = Seam(
    f"{_SCHEDULER}._get_new_batch_prefill_raw",
    "self, prefill_delayer_single_pass, running_batch",
    Kind.BEFORE,
    "what waits, and which states are under way for it",
)
NEXT_ROUND = Seam(
    f"{_REQUEST}.init_next_round_input",
    "self, tree_cache, cow_mamba",
    Kind.AROUND,
    "a request that waits for a state is not matched",
)
ADD_REQUEST = Seam(
    f"{_ADDER}.add_one_req",
    "self, req, has_chunked_req, truncation_align_size",
    Kind.AROUND,
    "nor admitted; one that is uses its state",
)
PREEMPT = Seam(
    f"{_ADDER}.preempt_to_schedule", "self, req", Kind.AROUND, "nor is another retracted for it"
)
COMMIT_ADMISSION = Seam(
    f"{_ADDER}._commit_prefill_admission",
    "self, req, admission, mamba_gap_reserve",
    Kind.AFTER,
    "observed: what a request reuses",
)
TRACK_GRID = Seam(
    f"{_SRT}.runtime_context.mamba_track_grid",
    "tree_page",
    Kind.AROUND,
    "KV pages > 1: track at every KV page",
)
DECODE = Seam(
    f"{_SRT}.managers.schedule_batch.ScheduleBatch.prepare_for_decode",
    "self",
    Kind.BEFORE,
    "where the next state is tracked",
)
RUN_BATCH = Seam(
    f"{_SCHEDULER}.run_batch",
    "self, batch, pp_proxy_tensors",
    Kind.BEFORE,
    "what each tracking slot holds; which states the pass is to take",
)
FORWARD = Seam(
    f"{_SRT}.managers.tp_worker.TpModelWorker.forward_batch_generation",
    "self, batch, ...",
    Kind.AROUND,
    "a pass takes its states, on its stream",
)
RESULT = Seam(
    f"{_SCHEDULER}.process_batch_result",
    "self, batch, result",
    Kind.BEFORE,
    "the states of the pass may land",
)
UPDATES = Seam(
    f"{_INTERNAL_STATE}.SchedulerInternalStateController._update_handlers",
    "self",
    Kind.AFTER,
    "policy and alpha while serving",
)
SIZE_STATES = Seam(
    f"{_CONFIGURATOR}._handle_max_mamba_cache",
    "self, total_rest_memory",
    Kind.AROUND,
    "slots become the store's bytes",
)
SLOTS_OF_A_REQUEST = Seam(
    f"{_CONFIGURATOR}._calculate_mamba_ratio",
    "self",
    Kind.AROUND,
    "slots that a request needs; called to know those it needs otherwise",
)
STATE_POOLS = Seam(
    f"{_POOLS}.HybridReqToTokenPool._init_mamba_pool",
    "self, ...",
    Kind.AFTER,
    "build the store, in place of the one that SGLang may have",
)
RELEASE_MEMORY = Seam(
    f"{_SRT}.managers.scheduler_components.weight_updater."
    "SchedulerWeightUpdaterManager.release_memory_occupation",
    "self, recv_req",
    Kind.BEFORE,
    "a store ends its work first",
)
DISPATCHER = Seam(
    f"{_SCHEDULER}.init_request_dispatcher", "self", Kind.AFTER, "the live view: answer"
)
SET_STATE = Seam(
    f"{HTTP}.set_global_state", "global_state", Kind.AFTER, "the live view: its routes"
)
GENERATE = Seam(
    f"{HTTP}.serve_generate_request",
    "obj, request",
    Kind.AROUND,
    "`checkpoints` of `/generate`",
)
CONVERT_CHAT = Seam(
    f"{_CHAT}._convert_to_internal_request",
    "self, request, raw_request",
    Kind.AROUND,
    "the positions of `cache_control` breakpoints",
)
TOKENIZED = Seam(
    f"{_TOKENIZER}._create_tokenized_object",
    "self, obj, input_text, input_ids, ...",
    Kind.BEFORE,
    "declared positions are those of the prompt",
)
ANSWERS = Seam(
    f"{_TOKENIZER}.generate_request",
    "self, obj, request",
    Kind.AROUND,
    "what was written to the cache, in the `meta_info`",
)
CACHED_DETAILS = Seam(
    f"{_SRT}.managers.scheduler_components.output_streamer."
    "SchedulerOutputStreamer.get_cached_tokens_details",
    "self, req",
    Kind.AFTER,
    "what was written to the cache, on its way to the response",
)
USAGE = Seam(
    f"{_OPENAI}.usage_processor.UsageProcessor.calculate_response_usage",
    "responses, n_choices, ...",
    Kind.AFTER,
    "what was written to the cache, in a usage",
)
CHAT_STREAM = Seam(
    f"{_CHAT}._generate_chat_stream",
    "self, adapted_request, request, raw_request",
    Kind.AROUND,
    "the same, in a stream",
)
ANTHROPIC_USAGE = Seam(
    f"{_ANTHROPIC}._anthropic_usage_from_openai",
    "usage, include_input, ...",
    Kind.AFTER,
    "the same, as `cache_creation_input_tokens`",
)

_HOOKS = (
    RESOLVE,
    PUBLISH,
    SELECT_ADMISSION,
    ADD_CHUNKED,
    PREFILL_ROUND,
    NEXT_ROUND,
    ADD_REQUEST,
    PREEMPT,
    COMMIT_ADMISSION,
    TRACK_GRID,
    DECODE,
    RUN_BATCH,
    FORWARD,
    RESULT,
    UPDATES,
    SIZE_STATES,
    SLOTS_OF_A_REQUEST,
    STATE_POOLS,
    RELEASE_MEMORY,
    DISPATCHER,
    SET_STATE,
    GENERATE,
    CONVERT_CHAT,
    TOKENIZED,
    ANSWERS,
    CACHED_DETAILS,
    USAGE,
    CHAT_STREAM,
    ANTHROPIC_USAGE,
)

_REGISTRY = f"{_SRT}.plugins.hook_registry.HookRegistry"
_OTHERS = (
    Seam(f"{_REGISTRY}._hooks", None, Kind.READ, "whether an operation is replaced, on a CPU"),
    Seam(
        f"{_REGISTRY}._patched",
        None,
        Kind.WRITE,
        "hooks around what is replaced are applied, though it was patched before",
    ),
    Seam(
        f"{_SRT}.mem_cache.registry.register_radix_cache_backend",
        "name, factory",
        Kind.REGISTRY,
        "the name `marconi`",
    ),
    Seam(
        f"{_SRT}.mem_cache.unified_cache.tree_core_registry.register_tree_core_backend",
        "name, factory",
        Kind.REGISTRY,
        "our tree, which our components report to",
    ),
    Seam(
        f"{_INIT_PARAMS}.component_registry_override",
        None,
        Kind.REGISTRY,
        "our components of the tree",
    ),
    Seam(f"{_INIT_PARAMS}.tree_core_backend", None, Kind.REGISTRY, "our tree, by its name"),
    Seam(
        f"{_SRT}.managers.io_struct.hook_custom_types",
        "new_types",
        Kind.REGISTRY,
        "the live view: a control request of ours, and its answer",
    ),
    Seam(
        f"{_SRT}.managers.tokenizer_control_mixin._COMMUNICATOR_SPECS",
        None,
        Kind.WRITE,
        "the live view: tokenizer managers ask our request, too",
    ),
    Seam(
        f"{_SRT}.managers.communicator.FanOutCommunicator",
        "send, fan_out, mode",
        Kind.CALL,
        "the live view: what SGLang builds of that",
    ),
    Seam(
        f"{_SCHEDULER}._request_dispatcher",
        None,
        Kind.WRITE,
        "the live view: our request is dispatched to us",
    ),
    Seam(
        f"{_SRT}.server_args.ServerArgs._resolution_finished",
        None,
        Kind.READ,
        "`doctor`: whether the arguments can be read as resolved ones",
    ),
    Seam(
        f"{_SRT}.arg_groups.overrides.declare_resolution",
        "server_args, source, fields",
        Kind.CALL,
        "hand the settings on to the other processes",
    ),
    Seam(
        f"{_SRT}.runtime_context.derive_attn_tp_size",
        "tp_size, attn_cp_size, attn_dp_size",
        Kind.CALL,
        "over how many ranks heads are divided",
    ),
    Seam(
        f"{_SRT}.managers.schedule_policy._PrefillAdmission",
        "prefix_len, extend_len, max_new_tokens, is_chunked, replay_len",
        Kind.CALL,
        "an admission with a shorter chunk",
    ),
    Seam(
        f"{_REQUEST}._compute_max_prefix_len",
        "self, input_len",
        Kind.CALL,
        "after how many tokens a request that waits may resume",
    ),
    Seam(
        f"{_INTERNAL_STATE}._UpdateHandler",
        "validate, apply",
        Kind.CALL,
        "what checks and what makes an update of ours",
    ),
    Seam(
        f"{_CONFIGURATOR}._get_ple_req_pool_kwargs",
        "self",
        Kind.CALL,
        "what Qwen4-Exp's PLE keeps in a slot, before there is one",
    ),
    Seam(
        f"{_POOLS}.MambaPool._slot_siblings",
        None,
        Kind.READ,
        "what a model attaches to the slots",
    ),
    Seam(
        f"{_POOLS}.MambaPool.get_contiguous_buf_infos",
        "self",
        Kind.CALL,
        "the bytes of a slot, of which a store must know all",
    ),
    Seam(
        f"{_POOLS}.HybridReqToTokenPool.free_mamba_cache",
        "self, req, mamba_ping_pong_track_buffer_to_keep",
        Kind.CALL,
        "a finished request's slots, but for one that the tree has taken",
    ),
    Seam(
        f"{_SRT}.mem_cache.registry.create_unified_radix_cache",
        "ctx, cache_class",
        Kind.CALL,
        "build the cache as SGLang builds its own",
    ),
    Seam(
        f"{HTTP}._create_error_response",
        "e",
        Kind.CALL,
        "an error of `/generate` in its own form",
    ),
    Seam(
        f"{_ANTHROPIC}.AnthropicServing._convert_to_chat_completion_request",
        "self, anthropic_request",
        Kind.CALL,
        "the prompt of another Anthropic request, to compare with",
    ),
    Seam(
        f"{_OPENAI}.protocol.PromptTokensDetails",
        None,
        Kind.WRITE,
        "a field for what was written to the cache",
    ),
    Seam(f"{_KV_EVENTS}.enqueue", "self, event", Kind.CALL, "events of checkpoints, for routers"),
    Seam(
        f"{_KV_EVENTS}._node_event_hash_values",
        "self, node",
        Kind.CALL,
        "the block that a checkpoint stands on",
    ),
    Seam(f"{_KV_EVENTS}._namespace_seed", "self, node", Kind.CALL, "the namespace of that block"),
)

SEAMS = (*_HOOKS, *FORWARD_SEAMS, *_OTHERS, *TREE_SEAMS)
