# SPDX-License-Identifier: MIT OR Apache-2.0
"""Sources of this crate as a kernel's tree has them: see `series`, which imports this.

`rust()` decides each `cfg` that a kernel knows the answer of, leaves examples out that need more than a kernel has,
and wraps comments; `tests()` makes KUnit tests of the examples that stay. `c()` only wraps. `series` runs the kernel's
rustfmt behind it.
"""

import re

WIDTH = 100
TRUE = {"pinned_sgl_kbuild", 'feature = "kernel"'}
FALSE = {"test", "loom", "doc", "doctest", "docsrs"}
# Skipped by every scan: comments, strings, characters (and not lifetimes).
OPAQUE = re.compile(r'//[^\n]*|/\*.*?\*/|b?"(?:\\.|[^"\\])*"|' r"b?'(?:\\[^']+|[^\\'])'", re.S)
ITEMS = r"(pub(\([^)]*\))?\s+)?(unsafe\s+|const\s+|extern\s+)*(fn|impl|struct|enum|trait|mod|macro_rules!)\b"
ENDS_WITH_SEMICOLON = r"(pub(\([^)]*\))?\s+)?(use|const(?!\s+(unsafe\s+)?fn)|static|type|let|extern\s+crate)\b"


def split(text):
    """The arguments of `any()` and its like."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip() for part in parts + [text[start:]] if part.strip()]


def decide(predicate):
    """What a `cfg` is in a kernel: True, False, or None if that depends on its configuration."""
    predicate = " ".join(predicate.split())
    found = re.fullmatch(r"(not|all|any)\s*\((.*)\)", predicate)
    if not found:
        if predicate in TRUE:
            return True
        return False if predicate in FALSE or predicate.startswith("feature =") else None
    answers = [decide(part) for part in split(found[2])]
    if found[1] == "not":
        return None if answers[0] is None else not answers[0]
    decisive = found[1] == "any"
    if decisive in answers:
        return decisive
    return None if None in answers else not decisive


def balanced(text, at):
    """Behind the bracket that closes the one at `at`."""
    depth = 0
    while True:
        opaque = OPAQUE.match(text, at)
        if opaque:
            at = opaque.end()
            continue
        depth += (text[at] in "([{") - (text[at] in ")]}")
        at += 1
        if depth == 0:
            return at


def item_end(text, at):
    """Behind the item, statement, field or arm that begins at `at`, its attributes and comments included."""
    while True:
        blank = re.compile(r"\s*(//[^\n]*\n\s*)*").match(text, at)
        at = blank.end()
        if not text.startswith("#[", at):
            break
        at = balanced(text, at + 1)
    until_semicolon = re.compile(ENDS_WITH_SEMICOLON).match(text, at)
    item = until_semicolon or re.compile(ITEMS).match(text, at)
    while True:
        opaque = OPAQUE.match(text, at)
        if opaque:
            at = opaque.end()
        elif text[at] in "([{":
            brace = text[at] == "{"
            at = balanced(text, at)
            if brace and not until_semicolon:
                return at + (not item and text[at] == ",")
        elif text[at] in ")]}":
            return at
        elif text[at] == ";" or text[at] == "," and not item:
            return at + 1
        else:
            at += 1


def strip_cfgs(text):
    """Without the attributes `cfg` and `cfg_attr` that can be decided, and without what they leave out."""
    at = 0
    pattern = re.compile(r"^[ \t]*#(!?)\[(cfg|cfg_attr)\(", re.M)
    while found := pattern.search(text, at):
        start = found.start()
        behind = balanced(text, text.index("[", start))
        inner = text[text.index("(", start) + 1 : behind - 2].strip()
        predicate = inner if found[2] == "cfg" else split(inner)[0]
        answer = decide(predicate)
        line_end = text.index("\n", behind) + 1
        if answer is None:
            at = behind
        elif found[2] == "cfg_attr":
            rest = inner[len(predicate) :].strip().strip(",").strip()
            text = text[:start] + (f"#{found[1]}[{rest}]\n" if answer else "") + text[line_end:]
        elif answer:
            text = text[:start] + text[line_end:]
        else:
            end = item_end(text, behind)
            if text[end : end + 1] == "\n":
                end += 1
            # What stands above belongs to it, too.
            while above := re.search(r"^[ \t]*(//(?!!)|#\[)[^\n]*\n\Z", text[:start], re.M):
                start = above.start()
            text = text[:start] + text[end:]
    text = re.sub(r"^#!\[no_std\]\n", "", text, flags=re.M)
    text = re.sub(r"\n{3,}", "\n\n", text)
    return re.sub(r"\n\n([ \t]*\})", r"\n\1", text).rstrip() + "\n"


# What an example names that a kernel does not have, whose lists are in other memory.
NOT_THERE = re.compile(r"pinned_sgl_mock|Vec\b|vec!|format!|to_string|String\b|Heap|println|Umem::pin\(|std::(?!error)")
ON_THE_HEAP = re.compile(r"\b(SglBuilder::new|Sgl::from_pages|Sgl::from_runs)\(")
ANY_ERROR = "Box<dyn std::error::Error>"


def example(lines):
    """An example, with lists from `kmalloc()` and the kernel's errors; None if it needs what a kernel has not."""
    text = "\n".join(lines)
    if NOT_THERE.search(text) or len(ON_THE_HEAP.findall(text)) > 1:
        return None
    text = text.replace(ANY_ERROR, "Error")
    if found := ON_THE_HEAP.search(text):
        end = balanced(text, found.end() - 1) - 1
        text = f"{text[: found.end() - 1]}_in{text[found.end() - 1 : end]}, kmalloc{text[end:]}"
        text = "# use pinned_sgl::kernel::Kmalloc;\n# let kmalloc = Kmalloc::new(GFP_KERNEL);\n" + text
    return text.split("\n")


def examples(lines):
    """A comment without the examples that a kernel cannot have, and without a section that has nothing else."""
    # A block is one line of these.
    kept, inner, language = [], [], None
    for line in lines:
        fence = re.match(r"\s*```(\w*)", line)
        if language is None and fence:
            inner, language = [line], fence[1]
        elif language is None:
            kept.append(line)
        elif not fence:
            inner.append(line)
        else:
            if language in ("text", "make"):
                kept.append("\n".join([*inner, line]))
            elif not language and (ported := example(inner[1:])):
                kept.append("\n".join([inner[0], *ported, line]))
            language = None
    out = []
    for line in kept:
        if re.match(r"#+ ", line) and out and re.match(r"#+ ", next((l for l in reversed(out) if l.strip()), "")):
            while out and (not out[-1].strip() or re.match(r"#+ ", out[-1])):
                out.pop()
            out.append("")
        if line.strip() or (out and out[-1].strip()):
            out.append(line)
    while out and (not out[-1].strip() or re.match(r"#+ Examples?$", out[-1])):
        out.pop()
    return "\n".join(out).split("\n") if out else []


def as_list(table):
    """A table whose lines are too long, as a list."""
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))] for row in table]
    header, rows = rows[0], rows[2:]
    out = []
    for first, *others in rows:
        named = [f"{name}: {cell}" if name and i else cell for i, (name, cell) in enumerate(zip(header[1:], others))]
        out.append(f"- {first}: " + "; ".join(cell for cell in named if cell.split(": ")[-1]) + ".")
    return out


def wrap(lines, width):
    """A comment whose paragraphs with a line that is too long are broken anew."""
    out, paragraph, hanging = [], [], ""

    def flush():
        nonlocal paragraph
        if any(len(line) > width for line in paragraph):
            line, broken = "", []
            first = re.match(r"\s*", paragraph[0])[0]
            for word in " ".join(line.strip() for line in paragraph).split(" "):
                if line and len(line) + 1 + len(word) > width:
                    broken.append(line)
                    line = hanging + word
                else:
                    line = f"{line} {word}" if line else first + word
            paragraph = broken + [line]
        out.extend(paragraph)
        paragraph = []

    fence = False
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.lstrip().startswith("```"):
            flush()
            fence = not fence
            out.append(line)
        elif fence or not line.strip() or re.match(r"#+ |    ", line):
            flush()
            out.append(line)
        elif line.lstrip().startswith("|"):
            flush()
            table = []
            while at < len(lines) and lines[at].lstrip().startswith("|"):
                table.append(lines[at])
                at += 1
            if any(len(row) > width for row in table):
                table = wrap(as_list(table), width)
            out.extend(table)
            continue
        elif bullet := re.match(r"(\s*)(- |\* |\d+\. )", line):
            flush()
            hanging = " " * len(bullet[0])
            paragraph = [line]
        else:
            if not paragraph:
                hanging = re.match(r"\s*", line)[0]
            paragraph.append(line)
        at += 1
    flush()
    return out


ART = str.maketrans("─│┌┐└┘├┤┬┴┼►◄▲▼", "-|+++++++++><^v")


def comments(text, change):
    """Applies `change(lines, width)` to every comment of whole lines."""
    out, block, prefix = [], [], None

    def flush():
        nonlocal block
        if block:
            changed = change([line[len(prefix) :].removeprefix(" ") for line in block], WIDTH - 1 - len(prefix), prefix)
            out.extend((prefix + " " + line).rstrip() for line in changed)
        block = []

    for line in text.split("\n"):
        found = re.match(r"\s*(///|//!|//)(?= |$)", line)
        if not found or found[0] != prefix:
            flush()
        if found:
            prefix = found[0]
            block.append(line)
        else:
            out.append(line)
    flush()
    return "\n".join(out)


def rust(text):
    """A file of Rust."""

    def change(lines, width, prefix):
        if not prefix.strip() == "//":
            lines = examples(lines)
        return wrap([line.translate(ART) for line in lines], width)

    return comments(strip_cfgs(text), change)


# What the crate `kernel` gets: its module, and where that lies.
FOUNDATIONS = {
    "gup": ("mm::gup", "mm/gup.rs"),
    "iommu_domain": ("iommu::domain", "iommu/domain.rs"),
    "memlock": ("mm::memlock", "mm/memlock.rs"),
    "run_table": ("scatterlist::run_table", "scatterlist/run_table.rs"),
}


def foundations(text, crate):
    """A file that names these, by the name that this file has for the crate `kernel`."""
    return re.sub(r"\b(self|super)::foundation::(\w+)", lambda found: f"{crate}::{FOUNDATIONS[found[2]][0]}", text)


def foundation(text):
    """One of these, as a file of the crate `kernel`: bindgen declares its C."""
    text = re.sub(r"^use super::(kernel|ffi|\{ffi, kernel.*\});\n", "", text, flags=re.M)
    text = re.sub(r"\bffi::(?!c_|\{)", "bindings::", text)
    return rust(text.replace("use kernel::", "use crate::"))


def tests(files):
    """A file of Rust with a KUnit test of each example in these, which have been ported."""
    out = []
    for path, text in sorted(files.items()):
        name = re.sub(r"\W", "_", path.removeprefix("rust/pinned_sgl/").removesuffix(".rs").removesuffix("/mod"))
        blocks = re.findall(r"^[ \t]*//[/!] ```(\w*)\n((?:[ \t]*//[/!](?! ```).*\n)*)[ \t]*//[/!] ```$", text, re.M)
        for number, body in enumerate(body for language, body in blocks if not language):
            lines = [re.sub(r"^\s*//[/!] ?(# ?)?", "", line) for line in body.splitlines()]
            last = re.fullmatch(r"Ok::<\(\), (.*)>\(\(\)\)", lines[-1])
            if not last:
                lines.append("Ok(())")
            out += ["#[test]", f"fn {name}_{number}() {{"]
            error = last[1].replace("&", "&'static ") if last else "Error"
            out += [f"fn example() -> core::result::Result<(), {error}> {{", *lines, "}"]
            out += ["assert!(example().is_ok());", "}", ""]
    return f"""// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples of the documentation, each as a test: `kbuild/examples` makes this file of them.

// As rustdoc has it.
#![allow(unused)]

use kernel::prelude::*;

#[kunit_tests(rust_pinned_sgl_examples)]
mod tests {{
use super::*;

{chr(10).join(out)}}}
"""


def wrapped(text):
    """A file of Rust whose comments have been moved to the right by rustfmt."""
    return comments(text, lambda lines, width, _: wrap(lines, width))


def c(text):
    """A file of C: comments of several lines."""

    def one_line(found):
        indent, line = found.groups()
        if len(found[0].expandtabs(8)) <= WIDTH:
            return found[0]
        lines = wrap([line], WIDTH - 3 - len(indent.expandtabs(8)))
        return "\n".join([f"{indent}/*", *(f"{indent} * {line}" for line in lines), f"{indent} */"])

    def change(found):
        lines = found[0].split("\n")
        if all(len(line.expandtabs(8)) <= WIDTH for line in lines) or len(lines) < 3:
            return found[0]
        prefix = re.match(r"[ \t]*\*", lines[1])[0]
        inner = [line[len(prefix) :].removeprefix(" ") for line in lines[1:-1]]
        wrapped = wrap(inner, WIDTH - 1 - len(prefix.expandtabs(8)))
        return "\n".join([lines[0], *((prefix + " " + line).rstrip() for line in wrapped), lines[-1]])

    text = re.sub(r"^([ \t]*)/\* (.*) \*/$", one_line, text, flags=re.M)
    return re.sub(r"/\*\n.*?\*/", change, text, flags=re.S).rstrip() + "\n"
