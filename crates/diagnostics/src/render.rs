//! Diagnostics as a user reads them: `file:line:column`, the text underlined, further places, hints. Knows nothing of
//! what is wrong.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use minibuild_core::{visible, visible_line};

use crate::diag::{Diagnostic, Diagnostics, Severity, Sources, Span};

/// The whole text of all diagnostics: sorted by file and place, equal ones once, an empty line after each.
pub fn render(diagnostics: &Diagnostics, sources: &Sources, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii);
    let mut seen: Vec<&Diagnostic> = diagnostics.list.iter().collect();
    seen.sort_by(|a, b| order(a, sources).cmp(&order(b, sources)));
    seen.dedup_by(|a, b| a.message == b.message && a.primary == b.primary);
    let mut out = String::new();
    for diagnostic in seen {
        out.push_str(&renderer.render(&[group(diagnostic, sources)]));
        out.push_str("\n\n");
    }
    out
}

/// Errors without a place first, then by path and position.
fn order<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> (Option<(&'a str, u32, u32)>, &'a str) {
    let place = diagnostic.primary.as_ref().map(|(span, _)| (sources.path(span.file), span.start, span.end));
    (place, &diagnostic.message)
}

fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR.with_name(minibuild_core::Level::Error.word()),
        Severity::Warning => Level::WARNING.with_name(minibuild_core::Level::Warning.word()),
    };
    let mut group = Group::with_title(level.primary_title(diagnostic.message.as_str()));
    if let Some((span, label)) = &diagnostic.primary {
        let mut snippet =
            snippet(sources, *span).annotation(annotation(AnnotationKind::Primary, sources, *span, label));
        for (note, text) in diagnostic.notes.iter().filter(|(note, _)| note.file == span.file) {
            snippet = snippet.annotation(annotation(AnnotationKind::Context, sources, *note, text));
        }
        group = group.element(snippet);
        for (note, text) in diagnostic.notes.iter().filter(|(note, _)| note.file != span.file) {
            group = group.element(snippet_of_note(sources, *note, text));
        }
    } else {
        for (note, text) in &diagnostic.notes {
            group = group.element(snippet_of_note(sources, *note, text));
        }
    }
    for hint in &diagnostic.hints {
        group = group.element(Level::HELP.with_name("hint").message(visible(hint)));
    }
    group
}

fn snippet<'a>(sources: &'a Sources, span: Span) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    Snippet::source(sources.text(span.file)).path(visible_line(sources.path(span.file)))
}

fn snippet_of_note<'a>(
    sources: &'a Sources,
    span: Span,
    text: &'a str,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    snippet(sources, span).annotation(annotation(AnnotationKind::Context, sources, span, text))
}

fn annotation<'a>(
    kind: AnnotationKind,
    sources: &'a Sources,
    span: Span,
    label: &'a str,
) -> annotate_snippets::Annotation<'a> {
    let annotation = kind.span(clamped(sources.text(span.file), span));
    if label.is_empty() { annotation } else { annotation.label(visible(label)) }
}

/// The span inside the text, on character borders.
fn clamped(text: &str, span: Span) -> std::ops::Range<usize> {
    let floor = |at: u32| {
        let mut at = (at as usize).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    start..floor(span.end).max(start)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Renders an error about the first `needle` of `text`.
    fn shown(text: &str, needle: &str) -> String {
        let mut sources = Sources::default();
        let file = sources.add("a/BUILD.toml", Arc::from(text));
        let at = text.find(needle).expect("in the text");
        let mut diagnostics = Diagnostics::default();
        diagnostics.push(Diagnostic::at(Span::new(file, at..at + needle.len()), "wrong").hint("mend it"));
        diagnostics.push(diagnostics.list[0].clone());
        render(&diagnostics, &sources, false)
    }

    #[test]
    fn columns_count_characters() {
        let check = |text: &str, place: &str, underlined: &str| {
            let shown = shown(text, "bad");
            assert!(shown.contains(&format!("--> a/BUILD.toml:{place}\n")), "{shown}");
            assert!(shown.contains(underlined), "{shown}");
            assert_eq!(shown.matches("ERROR: wrong").count(), 1, "{shown}");
            assert!(shown.contains("= hint: mend it"), "{shown}");
            assert!(!shown.contains('\r'), "{shown:?}");
        };
        check("x = bad\n", "1:5", "1 | x = bad\n  |     ^^^\n");
        check("a = 1\r\nx = bad\r\ny = 2\r\n", "2:5", "2 | x = bad\n  |     ^^^\n");
        check("é = \"ü\" bad", "1:9", "1 | é = \"ü\" bad\n  |         ^^^\n");
        check("\tx = bad", "1:6", "1 |     x = bad\n  |         ^^^\n");
        check("bad", "1:1", "1 | bad\n  | ^^^\n");
    }

    #[test]
    fn no_text_reaches_a_terminal_as_more_than_text() {
        let mut sources = Sources::default();
        let file = sources.add("a\x1b[31m/BUILD.toml", Arc::from("x = \"\x1b[31m\""));
        let mut diagnostics = Diagnostics::default();
        let place = Span::new(file, 0..1);
        diagnostics.push(Diagnostic::at(place, "a\x1b[31m").hint("b\x1b[31m").note(place, "c\x1b[31m"));
        let shown = render(&diagnostics, &sources, false);
        assert!(!shown.contains('\x1b') && shown.matches("␛[31m").count() == 5, "{shown}");
    }

    #[test]
    fn spans_outside_of_the_text_are_cut() {
        let mut sources = Sources::default();
        let file = sources.add("f", Arc::from("é"));
        let mut diagnostics = Diagnostics::default();
        for (start, end) in [(0, 9), (1, 1), (7, 9), (1, 2)] {
            diagnostics.push(Diagnostic::at(Span { file, start, end }, format!("{start} {end}")));
        }
        assert_eq!(render(&diagnostics, &sources, true).matches("ERROR").count(), 4);
    }
}
