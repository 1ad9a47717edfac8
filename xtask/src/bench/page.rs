// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report as one HTML file that needs nothing else: no script, no network.

use super::{markdown, plots::Plot, results::Results};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#282c34;max-width:1100px;margin:2rem auto;\
    padding:0 1rem}table{border-collapse:collapse;font-size:14px;margin:1rem 0;display:block;overflow-x:auto}\
    th,td{border-bottom:1px solid #d5d8dd;padding:.35rem .7rem;text-align:left;white-space:nowrap}\
    th{background:#f3f4f6}figure{margin:1.5rem 0}svg{max-width:100%;height:auto}code{background:#f3f4f6;\
    padding:.1rem .3rem}";

/// The Markdown report, as HTML, with the plots before its tables.
pub fn report(results: &Results, plots: &[Plot]) -> String {
    let text = markdown::report(results);
    let (words, tables) = text.split_once("\n## ").unwrap_or((&text, ""));
    let mut body = html(words);
    for plot in plots {
        body += &format!("<figure id=\"{}\">{}</figure>\n", plot.name, plot.svg);
    }
    if !tables.is_empty() {
        body += &html(&format!("## {tables}"));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>What balancing costs</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    )
}

/// The Markdown that our report uses: headings, lists, tables, bold, code.
fn html(markdown: &str) -> String {
    let mut text = String::new();
    let mut open = Block::None;
    for line in markdown.lines() {
        let block = match line {
            line if line.starts_with("- ") => Block::List,
            line if line.starts_with('|') => Block::Table,
            _ => Block::None,
        };
        if block != open {
            text += open.end();
            text += block.begin();
        }
        text += &match (block, line) {
            (Block::List, line) => format!("<li>{}</li>\n", inline(&line[2..])),
            (Block::Table, line) if line.starts_with("| ---") => String::new(),
            (Block::Table, line) => table_row(line, open != Block::Table),
            (Block::None, "") => String::new(),
            (Block::None, line) => match line.split_once(' ') {
                Some(("#", title)) => format!("<h1>{}</h1>\n", inline(title)),
                Some(("##", title)) => format!("<h2>{}</h2>\n", inline(title)),
                _ => format!("<p>{}</p>\n", inline(line)),
            },
        };
        open = block;
    }
    text + open.end()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    None,
    List,
    Table,
}

impl Block {
    fn begin(self) -> &'static str {
        match self {
            Block::None => "",
            Block::List => "<ul>\n",
            Block::Table => "<table>\n",
        }
    }

    fn end(self) -> &'static str {
        match self {
            Block::None => "",
            Block::List => "</ul>\n",
            Block::Table => "</table>\n",
        }
    }
}

fn table_row(line: &str, is_head: bool) -> String {
    let tag = if is_head { "th" } else { "td" };
    let cells = line.trim_matches('|').split('|');
    let cells: String = cells
        .map(|cell| format!("<{tag}>{}</{tag}>", inline(cell.trim())))
        .collect();
    format!("<tr>{cells}</tr>\n")
}

fn inline(text: &str) -> String {
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    paired(&paired(&escaped, "**", "b"), "`", "code")
}

/// Every second mark closes.
fn paired(text: &str, mark: &str, tag: &str) -> String {
    let mut result = String::new();
    for (index, part) in text.split(mark).enumerate() {
        match index {
            0 => {}
            index if index % 2 == 1 => result += &format!("<{tag}>"),
            _ => result += &format!("</{tag}>"),
        }
        result += part;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_markdown_becomes_html_and_nothing_of_it_is_taken_for_tags() {
        let text = html("# A\n\n- **one** `two`\n- a < b\n\n| x | y |\n| --- | --- |\n| 1 | 2 |\n");
        assert_eq!(
            text,
            "<h1>A</h1>\n<ul>\n<li><b>one</b> <code>two</code></li>\n<li>a &lt; b</li>\n</ul>\n<table>\n\
             <tr><th>x</th><th>y</th></tr>\n<tr><td>1</td><td>2</td></tr>\n</table>\n"
        );
    }
}
