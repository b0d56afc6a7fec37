"""Renders chat templates with quantkit and with transformers, and shows where they differ.

    pip install transformers jinja2
    cargo build --release --example render_template
    python scripts/compare_templates.py target/release/examples/render_template [TEMPLATE.jinja...]

Compared are the features below, each a small template, and every file that is named, with several
conversations (llama.cpp's models/templates is a good collection). A template that transformers
refuses is to be refused, with whatever words.

    python scripts/compare_templates.py --write

writes tests/data/templates.json: the features with what transformers makes of them.
"""

import argparse
import contextlib
import copy
import datetime
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

from transformers.utils import chat_template_utils

DATA = Path(__file__).parent.parent / "tests" / "data" / "templates.json"
# 29 February 2024, 13:01:02.
NOW = 1_709_164_800 + 3_600 * 13 + 62

CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2.5, None, True], "c": "é<&>'"}}}
VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be brief. "},
        {"role": "user", "content": "Hi, 世界! <b>'x'</b> \"q\" & \\ \U0001f680"},
        {"role": "assistant", "content": "One\n two\n\nthree", "tool_calls": [CALL]},
        {"role": "user", "content": ""},
    ],
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
}

FEATURES = [line for line in r"""
{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.role }}{% endif %}{% endfor %}
{%- for m in messages -%} {%- generation -%} {% set x = 1 %}{{ m.role }} {%- endgeneration -%} {{ x is defined }} {% endfor %}
{{ available_tools | length }}|{{ available_tools | list }}|{{ available_tools }}|{{ not available_tools }}|{% for x in available_tools %}{% endfor %}
{% for m in messages %}{{ m.content.rsplit(' ', 1)[0] }}|{{ m.content.rsplit() }}|{{ m.content.split(None, 1) }}|{{ m.content.rsplit(None, 1) }}{% endfor %}
{{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'a'.partition('=') }}{{ 'a'.rpartition('=') }}
{{ '%s and %d: %5.2f|%-6s|%06.1f|%x|%r|%%' % ('x', 3, 2.5, 'ab', -1.25, 255, "it's") }}{{ '%s' % 'one' }}{{ '%s' % none }}{{ '%(a)s-%(b)03d' % {'a': 1, 'b': 2} }}
{{ '%5s|%.2s|%+d|% d|%e|%g|%G|%c|%i|%o|%X|%#x' % ('ab', 'xyz', 5, 5, 12345.678, 0.00001, 1e20, 'z', 3.9, 8, 255, 255) }}
{{ '%s' % [1, 'a', none] }}{{ '%s %s' % ('a', {'k': 1.0}) }}{{ '%*d' % (5, 42) }}
{{ '%s' % (1, 2) }}
{{ '%d' % 'a' }}
a\r\n{% if true %}\r\n  b\r\n{% endif %}\r\nc\r\n
{% if tools is defined %}defined{% endif %}{% if tools is not none %}tools{% endif %}{% if tools %}yes{% endif %}{{ tools }}{{ documents is none }}
{{ messages | tojson }}
{{ messages[1] | tojson(indent=2) }}|{{ messages[2].tool_calls | tojson(ensure_ascii=True) }}|{{ {'b': 1, 'a': [ ]} | tojson(sort_keys=true, separators=(',', ':')) }}|{{ {} | tojson(indent=4) }}
{{ {'f': 1.0, 'g': 1e100, 'h': 1e-7, 'n': none, 't': true, 1: 2, 'u': 'é\u2028'} | tojson }}{{ 'a"\\\n\t\b\f\u0001' | tojson }}{{ (1, 2) | tojson }}
{{ undefined_thing | tojson }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %A %a %B %b %d %j %U %W %w %u %y %I %p %f %Z|%z|%% %e %-d %-m %D %T %R %F %c %x %X %G %V %g %h %C %n%t%s%r %k %l %P %q') }}
{{ raise_exception('no ' ~ messages[0].role) }}
{{ 1 }}{{ 1.0 }}{{ 1.5e300 }}{{ 1e16 }}{{ 123456789.123 }}{{ 0.0001 }}{{ 0.00001 }}{{ -0.0 }}{{ true }}{{ none }}{{ 10 / 4 }}{{ 10 // 4 }}{{ -7 // 2 }}{{ -7 % 3 }}{{ 7 % -3 }}{{ 2 ** 10 }}{{ 2 ** -1 }}{{ 7.5 // 2 }}{{ -7.5 % 2 }}
{{ [1, 'a', "it's", 'say "x"', none, true, 1.5, (1,), (), {'k': 'v'}, 'a\nb\t\\é\u200b\x07'] }}
{{ 'a' ~ 1 ~ 1.0 ~ none ~ true ~ [1] ~ undefined_thing }}|{{ 'x' * 3 }}|{{ [1] * 2 }}|{{ [1] + [2] }}|{{ (1,) + (2,) }}|{{ 'x' * -1 }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ 'a' + undefined_thing }}
{{ undefined_thing.attribute }}
{{ messages[0].nothing.more }}
{{ messages[0].nothing is defined }}{{ messages[9] is defined }}{{ none.x is defined }}{{ messages[0]['role'] }}{{ messages[-1].role }}{{ messages[0].get('name') }}{{ messages[0].get('name', 'none') }}
{{ 1 < 2 < 3 }}{{ 1 < 2 > 3 }}{{ 'a' < 'b' }}{{ [1, 2] < [1, 3] }}{{ 1 == 1.0 }}{{ 1 == true }}{{ 'a' == 1 }}{{ [1] == [1] }}{{ [1] == (1,) }}{{ {'a': 1} == {'a': 1.0} }}{{ none == none }}{{ undefined_thing == other_thing }}{{ undefined_thing == none }}
{{ 1 < 'a' }}
{{ 'a' in 'cat' }}{{ 1 in [1, 2] }}{{ 'role' in messages[0] }}{{ 'x' not in messages[0] }}{{ not 1 in [2] }}{{ 'x' in undefined_thing }}
{{ 'x' in none }}
{{ 1 in 'abc' }}
{{ 1 and 0 }}{{ 1 or 0 }}{{ '' or 'x' }}{{ none and 1 }}{{ not '' }}{{ not [] and not {} }}{{ (undefined_thing or 'd') }}
{{ 'yes' if true else 'no' }}{{ 'yes' if false }}{{ ('yes' if false) is defined }}{{ 1 if false else 2 if false else 3 }}
{{ -1 | abs }}{{ -5.5 | abs }}{{ (-1) | abs }}{{ 3 - -2 }}{{ +3 }}{{ --3 }}{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}{{ 2 * 3 ~ 4 }}
{{ 'abc'[0] }}{{ 'abc'[-1] }}{{ 'abc'[1:] }}{{ 'abc'[:-1] }}{{ 'abcdef'[::2] }}{{ 'abc'[::-1] }}{{ [1, 2, 3][1:] }}{{ [1, 2, 3][::-1] }}{{ (1, 2, 3)[:2] }}{{ messages[1:] | length }}{{ 'abc'[5:] }}{{ 'abc'[5] }}{{ [1,2,3,4][3:0:-2] }}{{ 'héllo'[1] }}
{% set ns = namespace(x=1, y='a') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z is defined }}{{ ns['x'] }}
{% set x = 0 %}{% for i in [1, 2] %}{{ x }}{% set x = i %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}
{% for i in [1, 2] %}{% if y is defined %}kept{% endif %}{% set y = i %}{% endfor %}{{ y is defined }}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }},{% endfor %}{% for k in {'a': 1} %}{{ k }}{% endfor %}{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}{% for k, v in {'b': 1} | items %}{{ k }}{% endfor %}
{{ {'a': 1}.keys() | list }}{{ {'a': 1}.values() | list }}{{ {'a': 1}.items() | list }}{{ {'a': 1} | length }}{{ {'a': 1, 'a': 2} }}
{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ (loop.previtem or {}).role }}|{{ loop.nextitem is defined }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }};{% endfor %}
{% for i in range(5) if i is even %}{{ i }}{{ loop.last }}{% else %}none{% endfor %}{% for i in [] %}x{% else %}empty{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in range(3) %}{% for j in range(2) %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% endfor %}
{% for item in [1, [2, [3]]] recursive %}{% if item is iterable %}({{ loop(item) }}){% else %}{{ item }}{{ loop.depth }}{% endif %}{% endfor %}
{{ range(3) | list }}{{ range(1, 4) | list }}{{ range(5, 0, -2) | list }}{{ range(0) | list }}
{{ range(10 ** 6) | list }}
{% macro greet(name, greeting='Hi', *rest) %}{% endmacro %}
{% macro greet(name, greeting='Hi') %}{{ greeting }} {{ name }}{{ caller is defined }}{% endmacro %}{{ greet('a') }}{{ greet('a', 'b') }}{{ greet(greeting='x', name='y') }}{{ greet() }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, b=2) }}
{% macro wrap() %}<{{ caller('x') }}>{% endmacro %}{% call(y) wrap() %}in {{ y }}{% endcall %}
{% macro fact(n) %}{% if n > 1 %}{{ n * fact(n - 1) | int }}{% else %}1{% endif %}{% endmacro %}{{ fact(5) }}
{% set x = 1 %}{% macro m() %}{{ x }}{% set x = 5 %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}{{ x }}
{% macro m() %}{{ late }}{% endmacro %}{% set late = 'now' %}{{ m() }}
{% set text %}a {{ 1 + 1 }} b{% endset %}{{ text }}{% set t | upper | trim %} abc {% endset %}[{{ t }}]
{% filter upper %}a{% filter replace('B', 'c') %}bB{% endfilter %}{% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% set c = 3 %}{% endwith %}{{ a is defined }}{{ c is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (a, b) = (3, 4) %}{{ a }}{{ b }}{% for (x, y) in [(1, 2)] %}{{ x }}{{ y }}{% endfor %}{% set t = 1, %}{{ t }}
{% raw %}{{ not }} {% this %}{% endraw %}{{- 'x' -}}  {%- raw -%}  {{ y }}  {%- endraw -%}  z
a {#- comment -#} b {# {{ x }} #} c\n{# d #}\ne
  {% if true %}\n  a\n  {% endif %}\n  {{ 'b' }}\n  {%+ if true %}c{% endif +%}\nd\n
x {%- if true -%}  y  {%- endif -%} z{{- ' a' -}}   b{% if true +%}\nc{% endif %}\n\n{{ 'd' }}\n\n
{{ '{{' }}{{ '}}' }}{{ "%}" }}{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a': {'b': {}}} }}
{{ 'a\'b"c\\d\n\x41\u00e9\101\q' }}{{ "a" 'b' "c" }}
{{ 0x1F }}{{ 0b101 }}{{ 0o17 }}{{ 1_000 }}{{ 1.5e3 }}{{ 1e3 }}{{ 3.14 }}
{{ ' a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ '  a'.lstrip() }}|{{ 'a  '.rstrip() }}|{{ 'a\n'.rstrip('\n') }}|{{ '\u00a0\x1fa\u2003'.strip() }}
{{ 'a,b,,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a b c'.split(' ', 1) }}{{ 'a\nb\r\nc'.splitlines() }}{{ 'a\nb\n'.splitlines(true) }}{{ ''.split() }}{{ ''.split(',') }}{{ 'a b'.split(sep=' ', maxsplit=0) }}
{{ 'Hello World'.upper() }}{{ 'Hello'.lower() }}{{ 'hello wORLD'.title() }}{{ 'hELLO'.capitalize() }}{{ 'aB'.swapcase() }}{{ "they're bill's".title() }}{{ "they're bill's" | title }}
{{ 'hello'.startswith('he') }}{{ 'hello'.endswith(('lo', 'x')) }}{{ 'hello'.startswith('l', 2) }}{{ 'hello'.find('l') }}{{ 'hello'.rfind('l') }}{{ 'hello'.find('z') }}{{ 'hello'.count('l') }}{{ 'hello'.index('e') }}{{ 'héllo'.find('l') }}{{ 'aaa'.count('') }}
{{ 'hello'.replace('l', 'L') }}{{ 'hello'.replace('l', 'L', 1) }}{{ 'aaa' | replace('a', 'b', 2) }}{{ 'ab'.replace('', '-') }}{{ 12 | replace(1, 'x') }}
{{ ', '.join(['a', 'b']) }}{{ [1, 2] | join('-') }}{{ [1, 2] | join }}{{ messages | join(',', attribute='role') }}{{ messages | map(attribute='role') | join(', ') }}
{{ ''.join([1]) }}
{{ 'a'.center(5) }}|{{ 'ab'.center(5, '*') }}|{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'ab' | center(7) }}|{{ 'abc'.center(6) }}|{{ 'abcd'.center(7) }}
{{ 'abc'.isalpha() }}{{ 'a1'.isalnum() }}{{ '12'.isdigit() }}{{ 'ab'.islower() }}{{ 'AB'.isupper() }}{{ ' '.isspace() }}{{ 'Ab Cd'.istitle() }}{{ 'a'.isascii() }}{{ ''.isalpha() }}{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.y'.removesuffix('.y') }}
{{ '{} {1} {name}'.format('a', 'b', name='c') }}
{{ '{} {} {name} {d[k]} {x.role} {{}}'.format('a', 'b', name='c', d={'k': 1}, x=messages[0]) }}{{ '{0:>5}|{0:<5}|{0:^5}|{0:*^5}'.format('ab') }}{{ '{:.2f} {:d} {:05d} {:,} {:x} {:e} {:.1%} {!r}'.format(3.14159, 42, 42, 1234567, 255, 1234.5, 0.25, 'q') }}{{ '{:{w}}'.format('a', w=3) }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | list }}{{ [1, 0, 2] | select | list }}{{ [1, 2, 3] | select('odd') | list }}{{ [1, 2, 3] | reject('gt', 1) | list }}{{ messages | selectattr('tool_calls') | list | length }}{{ messages | selectattr('tool_calls', 'defined') | list | length }}
{{ [1, 2] | map('string') | list }}{{ ['a', 'b'] | map('upper') | join }}{{ ['a'] | map('replace', 'a', 'b') | list }}{{ [{'a': {'b': 1}}] | map(attribute='a.b') | list }}{{ [{}] | map(attribute='x', default='d') | list }}
{{ ([] | map('upper')) is iterable }}{{ 'yes' if ([] | select) else 'no' }}{{ [1, 2, 3] | first }}{{ [1, 2, 3] | last }}{{ [] | first is defined }}{{ 'abc' | first }}{{ [3, 1, 2] | sort }}{{ ['b', 'A', 'c'] | sort }}{{ ['b', 'A'] | sort(case_sensitive=true) }}{{ [1, 2] | sort(reverse=true) }}{{ messages | sort(attribute='role') | map(attribute='role') | join(' ') }}
{{ ([1] | map('string')) | length }}
{{ [1, 2, 2, 1] | unique | list }}{{ ['a', 'A'] | unique | list }}{{ [1, 5, 3] | min }}{{ [1, 5, 3] | max }}{{ ['b', 'A'] | min }}{{ [1, 2.5] | sum }}{{ [{'x': 1}, {'x': 2}] | sum(attribute='x') }}{{ [1, 2, 3] | reverse | list }}{{ 'abc' | reverse }}
{{ [1, 2, 3, 4, 5] | batch(2) | list }}{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3, 4, 5] | slice(2) | list }}{{ [1, 2, 3] | slice(2, 'x') | list }}{% for g, items in [{'k': 'a', 'v': 1}, {'k': 'b', 'v': 2}, {'k': 'A', 'v': 3}] | groupby('k') %}{{ g }}{{ items | length }}{% endfor %}
{{ 'a' | default('d') }}{{ undefined_thing | default('d') }}{{ '' | default('d', true) }}{{ none | default('d') }}{{ none | d('d', boolean=true) }}{{ undefined_thing | default }}
{{ '42' | int }}{{ '4.7' | int }}{{ 'x' | int }}{{ 'x' | int(default=7) }}{{ 3.9 | int }}{{ '0x1f' | int(base=16) }}{{ '1.5' | float }}{{ 'x' | float }}{{ 1 | float }}{{ true | int }}{{ none | int }}
{{ 2.5 | round }}{{ 3.14159 | round(2) }}{{ 2.7 | round(method='floor') }}{{ 2.1 | round(0, 'ceil') }}{{ 1234 | round(-2) }}{{ 5 | round }}{{ 2.675 | round(2) }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('> ') }}|{{ '' | indent }}
{{ 'hello world foo bar' | truncate(11) }}{{ 'hello world' | truncate(8, true) }}{{ 'hello world foo bar baz' | truncate(12, false, '..', 0) }}{{ 'a b  c' | wordcount }}{{ 'a b/ü?' | urlencode }}{{ 'hello' | capitalize }}{{ 'A' | lower }}
{{ '<a href="x">\'&' | escape }}{{ '<a>' | e }}{{ '<a>' | safe }}{{ '<b>' + ('<a>' | safe) }}{{ ('<a>' | safe) + '<b>' }}{{ ('<a>' | safe) ~ '<b>' }}{{ messages[2].tool_calls | tojson | safe }}
{{ 1 is number }}{{ 1 is integer }}{{ 1.0 is float }}{{ true is number }}{{ true is integer }}{{ true is boolean }}{{ 'a' is string }}{{ [] is sequence }}{{ {} is mapping }}{{ {} is sequence }}{{ 'a' is iterable }}{{ 1 is iterable }}{{ none is none }}{{ 3 is odd }}{{ 4 is even }}{{ 6 is divisibleby 3 }}{{ 6 is divisibleby(4) }}{{ undefined_thing is sequence }}{{ undefined_thing is iterable }}{{ undefined_thing is mapping }}
{{ 1 is eq 1 }}{{ 1 is ne 2 }}{{ 1 is lt 2 }}{{ 'a' is in 'abc' }}{{ 1 is not in [1] }}{{ 'a' is lower }}{{ 'A' is upper }}{{ true is true }}{{ false is false }}{{ 1 is true }}{{ range is callable }}{{ none is sameas none }}{{ 'a' is not defined }}{{ x is undefined }}{{ not x is defined }}
{{ dict(a=1, b=2) }}{{ dict({'a': 1}, b=2) }}{{ dict([('a', 1)]) }}{{ namespace(a=1).a }}
{{ [].append(1) }}
{{ {}.update({}) }}
{% set _ = [].append(1) %}
{{ messages | length }}{{ 'héllo' | length }}{{ {'a': 1} | count }}
{{ none | length }}
{{ 5 | length }}
{{ 1 - 1 ~ 2 }}
{{ loop.index }}
{% for m in messages %}{{ loop.previtem.role }}{% endfor %}
{{ messages[0] }}{{ messages[2].tool_calls }}
{{ messages[2].tool_calls[0].function.arguments.items() | list }}{{ messages[2]['tool_calls'][0]['function']['name'] }}
{{ (messages | first).role }}{{ messages.0.role }}{{ messages[0]["content"] | trim }}{{ messages[0].content | trim ~ 'x' }}
{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{{ system }}{{ messages | length }}
{{ bos_token }}{% for message in messages[1:] %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}
{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }}{% endfor %}{{ loop is defined }}
{{ foo() }}
{{ messages() }}
{{ 1 / 0 }}
{{ 'x' | nofilter }}
{{ 'x' is notest }}
{% if %}{% endif %}
{% for x in y
{{ x
{% endfor %}
{% unknown %}
{% include 'x' %}
{{ 'unterminated }}
{{ [1, 2 }}
{{ a b }}
{% set 1 = 2 %}
{% do messages %}
{% break %}
{% for x in [1, 2] %}{{ x }}{% with y = x %}{% break %}{% endwith %}{% endfor %}
{{ messages[0].__class__ }}{{ ''.__class__ }}{{ [].append }}
{{ ''.__class__() }}
{{ none | map('upper') | list }}{{ none | selectattr('a') | list }}{{ {}.keys() }}{{ {'a': 1}.items() }}
{% set ns = namespace() %}{% set ns._x = 1 %}
{{ namespace(_x=1) }}
{% set d = {} %}{% set d.x = 1 %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for x in 5 %}{% endfor %}
{{ [1, 2] | join(none) }}{{ none | join }}
{{ {'a': 1}.a }}{{ {'items': 1}.items is callable }}{{ {'items': 1}['items'] }}{{ {1: 'x'}[1] }}{{ {'a': 1}['b'] is defined }}{{ {true: 'x'}[1] }}
{{ {[1]: 2} }}
{%- set a = 'x' -%}\n{%- if a -%}\n  text\n{%- endif -%}\n  end
{% set x = 5 if false %}{{ x is defined }}{{ x }}{% set y = (1 if true else 2) %}{{ y }}
{{ messages|map(attribute='content')|select('string')|map('trim')|join('|') }}
{{ (1, 2)[0] }}{{ (1, 2) }}{{ () }}{{ (1,) | first }}{{ 1, 2 }}
{{ 'a' if messages is not string and messages is iterable else 'b' }}{{ messages[0].content is string }}
{{ '\u4e16' }}{{ '世' | tojson }}{{ '世界' | upper }}{{ 'ß' | upper }}{{ 'İ'.lower() | length }}
{{ 3 * 'ab' }}{{ 1.0 * 3 }}{{ 7 // 2.0 }}{{ 1e400 }}{{ 2 ** 0.5 }}{{ 10 % 3.5 }}
{{ "a" == 'a' and "b" != 'c' or false }}{{ 1 if 0 or 1 }}{{ not 0 == 1 }}
{% set loop = 5 %}{% for x in [1] %}{{ loop.index }}{% endfor %}{{ loop }}
{% for x in [[1, 2], [3]] %}{% for y in x %}{{ loop.index }}/{{ y }} {% endfor %}{% endfor %}
{% macro a() %}A{% endmacro %}{% macro b(f) %}[{{ f() }}]{% endmacro %}{{ b(a) }}{{ a.name }}
{% set x = 'outer' %}{% macro m(x) %}{{ x }}{% endmacro %}{{ m() }}|{{ m('in') }}{{ x }}
{% if false %}{{ 'x' | nofilter }}{% endif %}ok
{{ messages | map(attribute='role') | unique | sort | join }}{{ messages | selectattr('role', 'in', ['user', 'system']) | list | length }}
{{ (messages | last).content == '' }}{{ messages[::-1][0].role }}{{ messages[-2:] | length }}
{{ 'a' ~ ('b' if true) ~ ('c' if false) }}{{ ['x', 'y'] | map('upper') | list | tojson }}
""".split("\n") if line]


class FixedTime(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


@contextlib.contextmanager
def time_limit(seconds):
    def stop(*_):
        raise TimeoutError("too slow")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def reference(template, variables):
    """What transformers renders, and None; or where it refuses, None and why."""
    try:
        with time_limit(20):
            return chat_template_utils._compile_jinja_template(template).render(**copy.deepcopy(variables)), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def conversations():
    """Conversations that templates are tried on, by name."""
    def turns(*pairs):
        return [{"role": role, "content": content} for role, content in pairs]

    lists = {
        "one": turns(("user", "Hi")),
        "system": turns(("system", "Be brief."), ("user", "Hi")),
        "several": turns(
            ("system", " Answer in one word. "), ("user", "Who?\n"), ("assistant", "I.\n\nYou?"),
            ("user", "  And now? "), ("assistant", "<think>\nhm\n</think>\n\nNow."), ("user", "Bye")),
        "unicode": turns(("user", "Grüße, 世界 \U0001f680 e\u0301 \u200b\u2028 \"q\" 'a' & <b> \\n {{x}} {% y %}")),
        "empty": turns(("system", ""), ("user", ""), ("assistant", ""), ("user", "x")),
        "answered": turns(("user", "Hi"), ("assistant", "Hello")),
        "two users": turns(("user", "a"), ("user", "b")),
        "tool calls": turns(("user", "1+1?")) + [
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "call123ab", "type": "function",
                 "function": {"name": "add", "arguments": {"a": 1, "b": "zwei é", "c": [1.5, None, True]}}}]},
            {"role": "tool", "tool_call_id": "call123ab", "name": "add", "content": "2"}],
    }
    tool = {"type": "function", "function": {
        "name": "add", "description": "Adds <two> \"numbers\" & more – é",
        "parameters": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer", "description": "first"},
            "b": {"type": ["string", "null"], "enum": ["x", "y"], "default": None}}}}}
    for name, messages in lists.items():
        for prompt in (True, False):
            yield f"{name}, prompt {prompt}", {"messages": messages, "tools": None, "add_generation_prompt": prompt}
    yield "tools", {"messages": lists["tool calls"], "tools": [tool], "add_generation_prompt": True}
    yield "tools, system", {"messages": lists["system"], "tools": [tool], "add_generation_prompt": True}


SIGNS = ["", "-", "+"]
PIECES = ["a", " ", "  ", "\n", "\n\n", "\t", " \n ", "\r\n", "b c", "{", "}", "%", "#"]


def random_layouts(count):
    """Templates that are mostly white space and tags, from a fixed seed."""
    draw = random.Random(1)
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(2, 9)):
            begin, end, text = draw.choice(SIGNS), draw.choice(SIGNS), draw.choice(PIECES)
            parts.append(draw.choice([
                text, text, text,
                f"{{%{begin} set x = 1 {end}%}}",
                f"{{%{begin} if true {end}%}}{text}{{%{draw.choice(SIGNS)} endif {end}%}}",
                f"{{%{begin} for i in [1, 2] {end}%}}{text}{{%{draw.choice(SIGNS)} endfor {end}%}}",
                f"{{{{{begin} 'v' {'-' if end else ''}}}}}",
                f"{{#{begin} c {end}#}}",
                f"{{%{begin} raw {'-' if end else ''}%}}{text}{{%{draw.choice(SIGNS)} endraw {end}%}}",
            ]))
        yield "layout", "".join(parts), VARIABLES


VALUES = ["1", "-2", "0", "2.5", "true", "none", "'ab c'", "''", "'x'", "' Ab\\n'", "[1, 'a']", "[]", "(1, 2)", "(3,)",
          "{'a': 1}", "{}", "missing", "messages[0]", "messages[1].content", "messages", "['b', 'A', 'c']", "'é世'"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
FILTERS = ["length", "string", "list", "upper", "trim", "first", "last", "join('-')", "tojson", "int", "float", "abs",
           "default('d')", "default('d', true)", "sort", "reverse | list", "unique | list", "map('string') | list", "select | list",
           "replace('a', 'b')", "indent(2)", "title", "capitalize", "batch(2) | list", "sum", "min", "max", "round", "items | list",
           "dictsort", "wordcount", "tojson(indent=1)", "e", "safe", "center(6)", "truncate(5)", "urlencode", "attr('a')",
           "selectattr('role') | list", "map(attribute='role') | list", "groupby('role') | length", "slice(2) | list", "lower"]
SUFFIXES = ["[0]", "[-1]", "[1:]", "[:1]", "[::-1]", ".a", "['a']", ".role", ".strip()", ".split()", ".split(' ', 1)", ".upper()",
            ".get('a')", ".items()", ".keys() | list", ".format(1)", ".startswith('a')", ".find('b')", ".count('a')", ".title()",
            ".rsplit(None, 1)", ".splitlines()", ".isdigit()", ".islower()", ".center(5)", ".index('a')", ".copy()", ".lstrip('a')"]
TESTS = ["defined", "none", "string", "number", "mapping", "iterable", "sequence", "boolean", "integer", "float", "odd", "even",
         "eq 1", "in [1, 'a']", "lower", "upper", "true", "false", "divisibleby 2", "sameas none", "undefined", "gt 1", "callable"]


def random_expression(draw, depth):
    if depth == 0:
        return draw.choice(VALUES)
    inner = random_expression(draw, depth - 1)
    kind = draw.randrange(9)
    if kind < 3:
        return f"({inner} {draw.choice(BINARY)} {random_expression(draw, draw.randrange(depth))})"
    if kind < 6:
        return f"({inner} | {draw.choice(FILTERS)})"
    if kind < 7:
        return f"({inner}){draw.choice(SUFFIXES)}"
    if kind < 8:
        return f"({inner} is {draw.choice(['', 'not '])}{draw.choice(TESTS)})"
    return f"({inner} if {random_expression(draw, draw.randrange(depth))} else {random_expression(draw, draw.randrange(depth))})"


def random_expressions(count):
    """Expressions of all that there is, from a fixed seed; most are refused."""
    draw = random.Random(2)
    for _ in range(count):
        expression = random_expression(draw, draw.randint(1, 3))
        yield expression, "{{ " + expression + " }}", VARIABLES


def feature_cases():
    """The features; `\\n` and `\\r` that are not in quotes stand for line breaks."""
    for line in FEATURES:
        parts = line.split("{")
        template = "{".join(
            part if "}" in part and not part.split("}")[-1] else unescape_behind(part) for part in parts)
        yield line[:70], template, VARIABLES


def unescape_behind(part):
    """Resolves escapes in the text behind a tag."""
    tag, close, text = part.rpartition("}")
    return tag + close + text.replace("\\r", "\r").replace("\\n", "\n")


def write():
    cases = []
    for _, template, variables in feature_cases():
        text, _ = reference(template, variables)
        cases.append({"template": template, "text": text})
    document = {"now": NOW, "variables": VARIABLES, "cases": cases}
    DATA.write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n")
    print(f"{len(cases)} cases, of which {sum(case['text'] is None for case in cases)} are refused")


def compare(binary, files, width):
    """Shows the differences; gives whether there are none."""
    groups = {
        "features": list(feature_cases()),
        "layouts": list(random_layouts(2000)),
        "expressions": list(random_expressions(6000)),
        "files": [
            (f"{Path(file).name}: {name}", Path(file).read_bytes().decode(),
             {"documents": None, "bos_token": "<s>", "eos_token": "</s>", **values})
            for file in files for name, values in conversations()],
    }
    all_equal = True
    for what, cases in groups.items():
        lines = [json.dumps({"template": template, "variables": variables, "now": NOW})
                 for _, template, variables in cases]
        run = subprocess.run([binary], input="".join(line + "\n" for line in lines), capture_output=True, text=True, check=True)
        results = [json.loads(line) for line in run.stdout.split("\n") if line]
        same = refused = 0
        for (name, template, variables), result in zip(cases, results, strict=True):
            expected, error = reference(template, variables)
            equal = expected == result.get("text")
            same += equal
            refused += equal and expected is None
            if not equal:
                print(f"- {name!r:.{width}} {template!r:.{width}}")
                print(f"    transformers: {repr(expected) if error is None else error}"[:width])
                print(f"    quantkit:     {repr(result.get('text', result))}"[:width])
        print(f"{what}: {same} of {len(cases)} equal, {refused} of them refused by both")
        all_equal &= same == len(cases)
    return all_equal


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("binary", nargs="?", help="target/release/examples/render_template")
    parser.add_argument("files", nargs="*", help="templates")
    parser.add_argument("--write", action="store_true", help="write tests/data/templates.json")
    parser.add_argument("--width", type=int, default=400, help="characters of each side to show")
    options = parser.parse_args()
    chat_template_utils.datetime = FixedTime
    if options.write:
        write()
    elif not compare(options.binary, options.files, options.width):
        sys.exit(1)


if __name__ == "__main__":
    main()
