"""Every link, command and option that the READMEs name is there.

Sources are read by `ast`, since importing the commands takes longer than all of this.
"""

import ast
import functools
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page for room in (".", "gym", "rl", "sft", "evaluation") for page in (ROOT / room).glob("*.md")
)
ENVIRONMENTS = ("gym_cards.env", "gym_virl.env")
OTHER_PROGRAMS = ("pip", "hf", "inspect", "sha256sum", "tensorboard", "transformers", "vf-eval")
SHELL_WORDS = ("for", "done")

LINK = re.compile(r"""\]\(([^)\s]+)\)|\bsrc="([^"]+)\"""")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
FILE = re.compile(r"[\w*.-]+(?:/[\w*.-]+)+\.(?:py|sh|yaml)")


# What is there.


@functools.cache
def parse(module: str) -> ast.Module | None:
    """The source of a module of this project, of a package that of its command; None if none is."""
    place = Path(*module.split("."))
    for root in (ROOT, ROOT / "gym"):
        for file in (f"{place}.py", place / "__main__.py"):
            if (root / file).is_file():
                return ast.parse((root / file).read_text("utf-8"))
    return None


def texts(module: str) -> set[str]:
    """The string constants of a module."""
    constants = (node.value for node in ast.walk(parse(module)) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


def is_command(module: str) -> bool:
    """Whether `python -m MODULE` does something."""
    return parse(module) is not None and "__main__" in texts(module)


def find_class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """(the module that defines it, a class of this project) by a name in a module."""
    for node in parse(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name) and parse(node.module):
                    return find_class(node.module, alias.name)
    return None


def fields_of(module: str, node: ast.ClassDef) -> dict[str, tuple[str, ast.expr]]:
    """A dataclass's fields, those of its bases too: name -> (module, annotation)."""
    fields = {}
    for base in node.bases:
        actual = find_class(module, base.id)
        fields |= fields_of(*actual) if actual else {}
    fields |= {n.target.id: (module, n.annotation) for n in node.body if type(n) is ast.AnnAssign}
    return fields


@functools.cache
def config_fields(module: str) -> dict[str, tuple[str, ast.expr]] | None:
    """The fields of the configuration that a module's command reads; None if it reads none."""
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "run_command":
            return fields_of(*find_class(module, node.args[1].id))
    return None


@functools.cache
def flags(module: str) -> set[str]:
    """What a module adds to argparse, itself or by the `run` that it imports."""
    actual = {text[2:] for text in texts(module) if text.startswith("--")}
    for node in parse(module).body:
        if isinstance(node, ast.ImportFrom) and "run" in (alias.name for alias in node.names):
            actual |= flags(node.module)
    return actual


@functools.cache
def environment_options() -> set[str]:
    """The arguments of both environments."""
    makers = (
        node
        for module in ENVIRONMENTS
        for node in ast.walk(parse(module))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    return {argument.arg for maker in makers for argument in maker.args.args}


@functools.cache
def launched(script: Path) -> str:
    """The module that a launcher runs."""
    text = re.sub(r"#.*", "", script.read_text("utf-8"))
    train = re.search(r"^train (\w+) \w+", text, re.MULTILINE)
    return f"{train[1]}.train" if train else re.findall(r"(?:-m|launch|run) ([a-z_.]+)", text)[-1]


def commands() -> set[str]:
    """Every module that a launcher of this project runs."""
    scripts = set((ROOT / "scripts").glob("*.sh")) - {ROOT / "scripts/env.sh"}
    others = {"slurm.sh", "serve.sh"}  # which run launchers, and a module of vLLM
    return {launched(script) for script in scripts if script.name not in others} - {"pytest"}


# What a page says.


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in headings}


def link_faults(page: Path, text: str) -> Iterator[str]:
    for match in LINK.finditer(FENCE.sub("", text)):
        target = match[1] or match[2]
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        place = page.parent / file if file else page
        if not place.exists():
            yield f"{target}: there is no such file"
        elif anchor and anchor not in anchors(text if place == page else place.read_text("utf-8")):
            yield f"{target}: there is no such heading"


def command_lines(text: str) -> Iterator[list[str]]:
    """The commands of a page's shell blocks and of its code spans, as words."""
    blocks = [block for language, block in FENCE.findall(text) if language == "bash"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    spans = SPAN.findall(FENCE.sub("", text))
    lines += [span for span in spans if re.match(r"(bash|python|sbatch) |[A-Z_]+=\S+ \w", span)]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in (";", "&", "&&", "|"):
                if words:
                    yield words
                words = []
            elif words or word != "do":
                words.append(word)


def command_faults(words: list[str]) -> Iterator[str]:
    while words and (match := re.fullmatch(r"[A-Z_]+=(.*)", words[0])):
        if "/" in match[1] and not (ROOT / match[1]).exists():
            yield f"{words[0]}: there is no such file"
        words = words[1:]
    if not words:
        return
    program, *rest = words
    if program == "sbatch":
        launcher, *rest = rest[rest.index("scripts/slurm.sh") + 1 :]
        program, rest = "bash", [f"scripts/{launcher}", *rest]
    if program == "bash":
        yield from launcher_faults(ROOT / rest[0], rest[1:])
    elif program == "python" and rest[0] == "-m":
        yield from module_faults(rest[1], rest[2:])
    elif program not in OTHER_PROGRAMS + SHELL_WORDS:
        yield f"{program}: is no program that a page here calls"


def launcher_faults(script: Path, arguments: list[str]) -> Iterator[str]:
    if not script.is_file():
        yield f"{script.name}: there is no such launcher"
        return
    if script.name == "serve.sh":
        return
    module = launched(script)
    plain = [word for word in arguments if not word.startswith("-")]
    if module == "pytest":
        missing = [word for word in plain if "/" in word and not (ROOT / word).exists()]
        yield from (f"{word}: there is no such test" for word in missing)
        return
    train = re.fullmatch(r"train_(rl|sft)_(\w+)\.sh", script.name)
    scales = arguments[:1] if train and plain else []
    for scale in scales:
        if not (ROOT / train[1] / f"configs/{train[2]}_{scale}.yaml").is_file():
            yield f"{scale}: {script.name} has no such scale"
    yield from option_faults(module, arguments)


def module_faults(module: str, arguments: list[str]) -> Iterator[str]:
    if module == "gym_command.launch":
        yield from module_faults(arguments[1], arguments[2:])
    elif not is_command(module):
        yield f"{module}: there is no such command"
    else:
        yield from option_faults(module, arguments)


def option_faults(module: str, arguments: list[str]) -> Iterator[str]:
    """What is wrong with the options of a module's command: unknown keys, values that are none of
    those listed, and files and tasks that are not there.
    """
    for index, word in enumerate(arguments):
        if not word.startswith("--"):
            continue
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = "".join(arguments[index + 1 : index + 2])
        fault = key_fault(module, key, value)
        if fault:
            yield f"--{key}: {module} {fault}"
            continue
        is_task = key == "task" and re.fullmatch(r"[a-z]+_\w+", value)
        file = f"evaluation/configs/{value}.yaml" if is_task else value
        if (is_task or key == "config") and not (ROOT / file).is_file():
            yield f"--{key}={value}: there is no {file}"


def key_fault(module: str, key: str, value: str) -> str | None:
    fields = config_fields(module)
    if key in ("help", "config"):
        return None
    if fields is None:
        return None if key in flags(module) else "has no such option"
    where, annotation = module, None
    parts = key.split(".")
    for depth, part in enumerate(parts, start=1):
        if part not in fields:
            return "has no such option"
        where, annotation = fields[part]
        optional = annotation.left if isinstance(annotation, ast.BinOp) else annotation  # X | None
        name = optional.id if isinstance(optional, ast.Name) else None
        if part == "chat_template_kwargs":  # a template has the variables that it has
            return None
        if name == "Kwargs":
            options = parts[depth:] or ["KEY"]
            return None if {*options[:1]} <= environment_options() | {"KEY"} else "is no argument"
        actual = find_class(where, name) if name else None
        fields = fields_of(*actual) if actual else {}
    allowed = [n.value for n in ast.walk(annotation) if isinstance(n, ast.Constant)]
    is_choice = getattr(getattr(annotation, "value", None), "id", "") == "Literal"
    return f"takes {allowed}" if is_choice and value and value not in allowed else None


def span_faults(page: Path, text: str) -> Iterator[str]:
    """Options and files that are named in the text, by themselves."""
    for span in SPAN.findall(FENCE.sub("", text)):
        for word in span.split() if span.startswith("--") else ():
            if word.startswith("--") and all([*option_faults(m, [word])] for m in KNOWN):
                yield f"{word}: no command has such an option"
        if FILE.fullmatch(span):
            places = (ROOT, ROOT / "gym", page.parent)
            if not any(list(place.glob(span)) for place in places):
                yield f"{span}: there is no such file"


KNOWN = commands() | {"sft.initial", "gym_dialogue.wording", "gym_cards", "gym_virl.draw"}


def faults(page: Path, text: str) -> list[str]:
    """Everything on a page that is not as it says."""
    actual = [*link_faults(page, text), *span_faults(page, text)]
    for words in command_lines(text):
        actual += [f"{' '.join(words)}: {fault}" for fault in command_faults(words)]
    return actual


# Tests.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_what_is_there(page):
    assert faults(page, page.read_text("utf-8")) == []


def test_every_package_has_its_page_and_the_front_page_links_to_it():
    front = (ROOT / "README.md").read_text("utf-8")
    for room in ("gym", "rl", "sft", "evaluation"):
        assert f"]({room}/README.md)" in front
    assert "](evaluation/RESULTS.md)" in front


def test_every_launcher_is_on_some_page():
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    scripts = {script.name for script in (ROOT / "scripts").glob("*.sh")} - {"env.sh"}
    assert {name for name in scripts if name not in text} == set()


def test_the_front_page_is_short():
    assert (ROOT / "README.md").stat().st_size <= 10_240


def test_the_front_page_is_python_that_prints_what_it_says(tmp_path, capsys):
    text = (ROOT / "README.md").read_text("utf-8")
    (block,) = [block for language, block in FENCE.findall(text) if language == "python"]
    (tmp_path / "example.py").write_text(block)
    runpy.run_path(str(tmp_path / "example.py"))
    (shown,) = re.findall(r"print\(.*\)  # (.*)", block)
    assert capsys.readouterr().out == f"{shown}\n"


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("[gone](gone/README.md)", "no such file"),
        ("![gone](assets/gone.png)", "no such file"),
        ('<img src="assets/gone.png">', "no such file"),
        ("[gone](#gone)", "no such heading"),
        ("[gone](rl/README.md#gone)", "no such heading"),
        ("`bash scripts/gone.sh`", "no such launcher"),
        ("`bash scripts/train_rl_gp_l.sh huge`", "no such scale"),
        ("`bash scripts/train_rl_gp_l.sh --learning_rate=1`", "no such option"),
        ("`bash scripts/train_rl_gp_l.sh --ppo.lamda=1`", "no such option"),
        ("`bash scripts/train_rl_gp_l.sh --lr.max=1`", "no such option"),
        ("`bash scripts/train_rl_gp_l.sh --algorithm=reinforce`", "takes ['ppo', 'grpo']"),
        ("`bash scripts/train_rl_gp_l.sh --env.kwargs.color=red`", "is no argument"),
        ("`bash scripts/train_sft_gp_l.sh --num_updates=1`", "no such option"),
        ("`bash scripts/eval_ood.sh --task=gp_xl`", "there is no evaluation/configs/gp_xl.yaml"),
        ("`bash scripts/study.sh --task gp_xl`", "there is no evaluation/configs/gp_xl.yaml"),
        ("`bash scripts/test.sh rl/tests/test_gone.py -k x`", "no such test"),
        ("`sbatch --nodes=4 scripts/slurm.sh train_rl_gone.sh paper`", "no such launcher"),
        ("`ACCELERATE_CONFIG=scripts/accelerate/gone.yaml bash scripts/test.sh`", "no such file"),
        ("`python -m gym_gone.draw`", "no such command"),
        ("`python -m rl.ppo`", "no such command"),
        ("`python -m gym_cards.wording DATA.json --output x`", "no such option"),
        (
            "`python -m gym_command.launch 2 sft.initial --config sft/configs/gone.yaml`",
            "there is no sft",
        ),
        ("`--eval.each_time=true`", "no command has such an option"),
        ("`rl/gone.py`", "no such file"),
        ("```bash\nbahs scripts/test.sh\n```", "is no program"),
        ("```bash\nbash scripts/test.sh &&\\\n  bash scripts/gone.sh # x\n```", "no such launcher"),
    ],
)
def test_a_broken_page_is_told(broken, fault):
    actual = faults(ROOT / "README.md", f"# Page\n\n{broken}\n")
    assert len(actual) == 1
    assert fault in actual[0]
