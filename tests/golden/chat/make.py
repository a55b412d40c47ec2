#!/usr/bin/env python3
"""Writes expected.json: conversations as jinja2 renders the published templates beside this file.

Each *.jinja is the chat_template of the named model's tokenizer_config.json on the Hugging Face hub,
or the part of it that conversations without tools reach.  The settings of jinja2 are those of
transformers' apply_chat_template (trim_blocks, lstrip_blocks, raise_exception, strftime_now).
Needs jinja2.  Usage: make.py
"""
import json
import pathlib

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

here = pathlib.Path(__file__).parent
DATE = "05 Mar 2026"


def refuse(message):
    raise jinja2.TemplateError(message)


def message(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = {
    "user": [message("user", "  What is 2+2?\n")],
    "system": [message("system", " Be brief.\n"), message("user", "Hi\nthere ")],
    "turns": [message("user", "One"), message("assistant", " Two \n"), message("user", "Three")],
    "system_turns": [
        message("system", "Be brief."), message("user", " One"), message("assistant", "Two"),
        message("user", "Three "), message("assistant", "Four"), message("user", "F\u00fcnf <s>"),
    ],
    "thoughts": [
        message("user", "One"), message("assistant", "<think>\nhm\n</think>\n\nTwo"), message("user", "Three"),
    ],
    "two_users": [message("user", "One"), message("user", "Two")],
}

environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
environment.globals["raise_exception"] = refuse
environment.globals["strftime_now"] = lambda form: DATE
environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}

expected = []
for path in sorted(here.glob("*.jinja")):
    source = path.read_text(encoding="utf-8")
    if source.startswith("{#"):  # our own note about the origin; one line
        source = source.split("#}\n", 1)[1]
    bos, eos = ("<|begin_of_text|>", "<|eot_id|>") if "llama-3" in path.stem else ("<s>", "</s>")
    template = environment.from_string(source)
    for name, messages in CONVERSATIONS.items():
        try:
            text = template.render(messages=messages, add_generation_prompt=True, bos_token=bos, eos_token=eos,
                                   tools=None)
        except jinja2.TemplateError:
            text = None
        expected.append({"template": path.name, "name": name, "messages": messages, "bos": bos, "eos": eos,
                         "date": DATE, "text": text})

lines = ",\n".join(json.dumps(e, ensure_ascii=False) for e in expected)
(here / "expected.json").write_text("[\n" + lines + "\n]\n", encoding="utf-8")
