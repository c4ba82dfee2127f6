"""Chat templates of the kinds that releases of Llama's architecture have, and dialogues to render with them.

Each writes what the family's own does, in words of ours; the system messages are made up.
"""

from __future__ import annotations

LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA_3_1 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system message may be given, and is written in either case. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
    {%- endfor %}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim }}
        {{- '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("no tools here") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
LLAMA_3_2 = LLAMA_3_1.replace(
    '    {%- set date_string = "26 Jul 2024" %}\n',
    '    {%- if strftime_now is defined %}\n        {%- set date_string = strftime_now("%d %b %Y") %}\n'
    '    {%- else %}\n        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n',
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OWN_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nJawab dengan ramah.<|im_end|>\n' }}{% endif %}"
)
GENERATION = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must take turns: user/assistant/user/…') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}"
    "\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}"
    "\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
THINKING = (  # an earlier answer loses what was thought; the next one begins with thinking
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(is_first=false, system_prompt='') %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
    "{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}{%- endif %}"
    "{%- if message['role'] == 'assistant' and message['content'] is not none %}"
    "{% set content = message['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<|assistant|>' + content + eos_token }}"
    "{%- endif %}{%- endfor -%}{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
ALPACA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'].rstrip() + '\n\n' }}"
    "{% else %}{{ '### ' + ('Instruction' if message['role'] == 'user' else 'Response') + ':\n' + message['content']"
    " + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
VICUNA = (
    "{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}{{ messages[0].content }}"
    "{% else %}{% set loop_messages = messages %}{{ 'A chat between a curious user and a helpful assistant.' }}"
    "{% endif %}{% for m in loop_messages %}{% if loop.index0 == 0 %}{{ '\n\n' }}{% endif %}"
    "{{ m.role | upper + ': ' + m.content | trim + ('\n' if m.role == 'user' else eos_token + '\n') }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MACRO = (
    "{%- macro turn(m) -%}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content if m.content is string "
    "else '' }}<|eot_id|>{%- endmacro -%}{{ bos_token }}{% for m in messages %}{{ turn(m) }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

# The format that a template is expected to become: where it writes what one of ours does, that one.
EXPECTED = {
    LLAMA_3: "llama3",
    LLAMA_3_1: "template",
    LLAMA_3_2: "template",
    CHATML: "chatml",
    OWN_SYSTEM + CHATML: "chatml",
    GENERATION: "chatml",
    CHATML.replace("'<|im_end|>'", "eos_token"): "chatml",
    "{{ bos_token }}" + CHATML: "template",
    CHATML.replace("m['content']", "m['content'] | trim"): "template",
    CHATML.replace("m['content']", "m['content'].strip()"): "template",
    CHATML.replace("+ '\n' }}{% endfor", "}}{% endfor"): "template",
    CHATML.replace("assistant\n", "assistant\n<think>\n"): "template",
    "{% if messages | length > 6 %}{{ 'long ' }}{% endif %}" + CHATML: "template",
    CHATML.replace(
        "{{ '<|im_start|>' + m", "{% if 'kado' in m.content %}{{ 'gift: ' }}{% endif %}{{ '<|im_start|>' + m"
    ): ("template"),
    LLAMA_3.replace(" | trim", ""): "template",
    LLAMA_2: "template",
    ZEPHYR: "template",
    THINKING: "template",
    ALPACA: "template",
    VICUNA: "template",
    MACRO: "template",
}
TEMPLATES = list(EXPECTED)
