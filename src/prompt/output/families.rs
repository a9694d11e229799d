//! Families of models by their Jinja templates, and how each writes calls.

use super::{CallSyntax, ToolSyntax, tagged};

/// A family of models, by what its templates contain.
pub(super) struct Family {
    #[cfg_attr(not(test), allow(dead_code))]
    pub name: &'static str,
    /// All of these.
    pub marks: &'static [&'static str],
    /// How it writes calls.
    pub tools: fn() -> ToolSyntax,
}

/// Families whose templates have tools, the more particular first.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "deepseek",
        marks: &["<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "```json"],
        tools: || ToolSyntax {
            begin: "<｜tool▁calls▁begin｜>".to_owned(),
            open: "<｜tool▁call▁begin｜>".to_owned(),
            call: CallSyntax::Named {
                between: "\n```json\n".to_owned(),
                before: "function<｜tool▁sep｜>".to_owned(),
                after: "\n```".to_owned(),
            },
            close: "<｜tool▁call▁end｜>".to_owned(),
            separator: "\n".to_owned(),
            end: "<｜tool▁calls▁end｜>".to_owned(),
        },
    },
    Family {
        name: "deepseek, newer",
        marks: &["<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>"],
        tools: || ToolSyntax {
            begin: "<｜tool▁calls▁begin｜>".to_owned(),
            close: "<｜tool▁call▁end｜>".to_owned(),
            end: "<｜tool▁calls▁end｜>".to_owned(),
            ..after_name("<｜tool▁call▁begin｜>", "", "<｜tool▁sep｜>")
        },
    },
    Family {
        name: "kimi",
        marks: &["<|tool_calls_section_begin|>", "<|tool_call_argument_begin|>"],
        tools: || ToolSyntax {
            begin: "<|tool_calls_section_begin|>".to_owned(),
            close: "<|tool_call_end|>".to_owned(),
            end: "<|tool_calls_section_end|>".to_owned(),
            ..after_name("<|tool_call_begin|>", "functions.", "<|tool_call_argument_begin|>")
        },
    },
    Family {
        name: "solar",
        marks: &["<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>"],
        tools: || ToolSyntax {
            begin: "<|tool_calls|>".to_owned(),
            close: "<|tool_call:end|>".to_owned(),
            ..after_name("<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>")
        },
    },
    Family {
        name: "command r, newer",
        marks: &["<|START_ACTION|>", "\"tool_name\""],
        tools: || ToolSyntax {
            call: CallSyntax::Object {
                name: "tool_name".to_owned(),
                arguments: "parameters".to_owned(),
                list: true,
            },
            ..list_within("<|START_ACTION|>", "<|END_ACTION|>")
        },
    },
    Family {
        name: "qwen 3 coder",
        marks: &["<tool_call>", "<function=", "<parameter="],
        tools: || {
            let names = tagged::within("<function=", ">\n", "</function>");
            let syntax = names.keys("<parameter=", ">\n").values("", "\n</parameter>\n");
            ToolSyntax {
                close: "\n</tool_call>".to_owned(),
                separator: "\n".to_owned(),
                ..syntax.after("<tool_call>\n")
            }
        },
    },
    Family {
        name: "seed",
        marks: &["<function=", "<parameter=", "seed:tool_call"],
        tools: || {
            let names = tagged::within("<function=", ">\n", "</function>");
            let syntax = names.keys("<parameter=", ">").values("", "</parameter>\n");
            ToolSyntax {
                close: "\n</seed:tool_call>".to_owned(),
                separator: "\n".to_owned(),
                ..syntax.after("<seed:tool_call>\n")
            }
        },
    },
    Family {
        name: "minimax 2",
        marks: &["minimax:tool_call", "<invoke name="],
        tools: || {
            let names = tagged::within("", "\">\n", "</invoke>");
            let syntax = names.keys("<parameter name=\"", "\">").values("", "</parameter>\n");
            ToolSyntax {
                begin: "<minimax:tool_call>\n".to_owned(),
                separator: "\n".to_owned(),
                end: "\n</minimax:tool_call>".to_owned(),
                ..syntax.after("<invoke name=\"")
            }
        },
    },
    Family {
        name: "minicpm",
        marks: &["<function name=", "<param name="],
        tools: || {
            let names = tagged::within("", "\">", "</function>");
            names.keys("<param name=\"", "\">").values("", "</param>").after("<function name=\"")
        },
    },
    Family {
        name: "glm",
        marks: &["<tool_call>", "<arg_key>", "<arg_value>"],
        tools: || {
            let names = tagged::within("", "\n", "</tool_call>");
            let syntax = names.keys("<arg_key>", "</arg_key>\n").values("<arg_value>", "</arg_value>\n");
            ToolSyntax { separator: "\n".to_owned(), ..syntax.after("<tool_call>") }
        },
    },
    Family { name: "nemotron", marks: &["<TOOLCALL>"], tools: || list_within("<TOOLCALL>", "</TOOLCALL>") },
    Family {
        name: "apriel",
        marks: &["<tool_calls>["],
        tools: || list_within("<tool_calls>", "</tool_calls>"),
    },
    Family {
        name: "minimax",
        marks: &["<tool_calls>"],
        tools: || ToolSyntax {
            end: "\n</tool_calls>".to_owned(),
            separator: "\n".to_owned(),
            ..ToolSyntax::object("<tool_calls>\n", "", "", "arguments")
        },
    },
    Family {
        name: "gigachat, newer",
        marks: &["<|function_call|>"],
        tools: || ToolSyntax::object("<|function_call|>", "", "", "arguments"),
    },
    Family {
        name: "gigachat",
        marks: &["'function call'", "<|role_sep|>"],
        tools: || ToolSyntax::object("<|message_sep|>\n\nfunction call<|role_sep|>\n", "", "", "arguments"),
    },
    Family { name: "firefunction", marks: &["functools["], tools: || list("functools") },
    Family {
        name: "mistral, newer",
        marks: &["[TOOL_CALLS]", "[ARGS]"],
        tools: || after_name("[TOOL_CALLS]", "", "[ARGS]"),
    },
    Family { name: "mistral", marks: &["[TOOL_CALLS]"], tools: || list("[TOOL_CALLS] ") },
    Family { name: "granite", marks: &["<|tool_call|>"], tools: || list("<|tool_call|>") },
    Family {
        name: "hermes, qwen",
        marks: &["<tool_call>"],
        tools: || ToolSyntax::object("", "<tool_call>\n", "\n</tool_call>", "arguments"),
    },
    Family {
        name: "functionary",
        marks: &["<function=", "</function>"],
        tools: || ToolSyntax { close: "</function>".to_owned(), ..after_name("<function=", "", ">") },
    },
    Family {
        name: "llama 3",
        marks: &["<|python_tag|>"],
        tools: || ToolSyntax::object("<|python_tag|>", "", "", "parameters"),
    },
    Family {
        name: "llama 3, bare",
        marks: &["\"parameters\"", "<|start_header_id|>"],
        tools: || ToolSyntax::object("", "", "", "parameters"),
    },
];

pub(super) fn list(begin: &str) -> ToolSyntax {
    let mut syntax = ToolSyntax::object(begin, "", "", "arguments");
    syntax.call =
        CallSyntax::Object { name: "name".to_owned(), arguments: "arguments".to_owned(), list: true };
    syntax
}

/// A list of calls between two tags.
fn list_within(begin: &str, end: &str) -> ToolSyntax {
    ToolSyntax { end: end.to_owned(), ..list(begin) }
}

/// A function's name after two texts, and its arguments after a third.
fn after_name(open: &str, before: &str, between: &str) -> ToolSyntax {
    ToolSyntax {
        begin: String::new(),
        open: open.to_owned(),
        call: CallSyntax::Named {
            between: between.to_owned(),
            before: before.to_owned(),
            after: String::new(),
        },
        close: String::new(),
        separator: String::new(),
        end: String::new(),
    }
}
