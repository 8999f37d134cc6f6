"""Chat templates of the kinds that models come with, each short."""

from __future__ import annotations

CHATML = """\
{%- if tools -%}
{{- '<|im_start|>system\\n' -}}
{%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n\\n' -}}{%- endif -%}
{{- '# Tools\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' + (tool | tojson) -}}{%- endfor -%}
{{- '\\n</tools><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role != 'system' or not tools -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') -}}
{%- for call in message.tool_calls or [] -%}
{{- '<tool_call>' + (call.function | tojson) + '</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""Tools in the system message, after its text."""

THINKING = CHATML.replace("assistant\\n' -}}{%- endif", "assistant\\n<think>\\n' -}}{%- endif")
"""A reply begins with its reasoning."""

# What was reasoned before the last question is left out; so is what comes before an answer.
DROPS_REASONING = """\
{%- set ns = namespace(asked=0) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set ns.asked = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set content = message.content or '' -%}
{%- if message.role == 'assistant' and loop.index0 < ns.asked -%}
{%- set content = content.split('</think>')[-1] | trim -%}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}
"""

HEADERS = """\
{{- '<|endoftext|>' -}}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '<|im_start|>\\n\\n' + message.content | trim + '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant<|im_start|>\\n\\n' -}}{%- endif -%}
"""
"""As of Llama 3: contents are trimmed."""

MERGES_SYSTEM = """\
{%- if messages[0].role == 'system' -%}
{%- set system = messages[0].content + '\\n\\n' -%}
{%- set messages = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
{%- for message in messages -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('roles must alternate') -}}
{%- endif -%}
{{- '<|im_start|>' + ('model' if message.role == 'assistant' else message.role) + '\\n' -}}
{{- (system if loop.first else '') + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>model\\n' -}}{%- endif -%}
"""
"""As of Gemma: the system prompt is in the first user message."""

DROPS_SYSTEM = """\
{%- for message in messages if message.role != 'system' -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

SYSTEM_LAST = """\
{%- for message in messages if message.role != 'system' -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n<|im_start|>assistant\\n' -}}
"""

PLAIN = """\
{%- for message in messages -%}
{{- message.role + ': ' + message.content + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}
"""
"""Without special tokens, so that the tokenizer may merge across each border."""

SHOW_ALL = {
    "chatml": CHATML,
    "thinking": THINKING,
    "drops reasoning": DROPS_REASONING,
    "headers": HEADERS,
    "merges system": MERGES_SYSTEM,
    "plain": PLAIN,
}
