#!/usr/bin/env python3
"""Makes the tiny random models of this folder and their golden values, from fixed seeds.

Usage: make.py [NAME...]     (all of them without names)

For each model a folder with its files and golden.json: for prompts of several lengths the greedy
continuation, the log-probability of every prompt token and generated token, and the runner-up of
every choice, by HF transformers in float32 on the weights as they are stored.
Needs: torch transformers accelerate safetensors gguf numpy.  Nothing here runs during the tests.
"""
import os
import shutil
import sys

import torch
import transformers

import gguf_models
import hf_models

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    makers = {name: module.make for module in (hf_models, gguf_models) for name in module.models()}
    for name in sys.argv[1:] or makers:
        folder = os.path.join(HERE, name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        makers[name](name, folder)


if __name__ == "__main__":
    main()
