from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transcoding import Router, Template, TemplateError
from gateway.transcoding.template import REST, STAR, Variable

LITERALS = st.from_regex(r"(?:[A-Za-z0-9\-._~]|%[0-9A-F]{2}){1,6}", fullmatch=True)
IDENTIFIERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,4}", fullmatch=True)
FIELD_PATHS = st.lists(IDENTIFIERS, min_size=1, max_size=3).map(".".join)
PATTERN = st.lists(st.one_of(st.just(STAR), LITERALS), min_size=1, max_size=3)


@st.composite
def templates(draw: st.DrawFn) -> Template:
    """Any template that the grammar allows."""
    segments: list[str] = []
    variables: list[Variable] = []
    names = draw(st.lists(FIELD_PATHS, unique=True, max_size=4))
    for _ in range(draw(st.integers(1, 5))):
        start = len(segments)
        segments += draw(PATTERN)
        if names and draw(st.booleans()):
            variables.append(Variable(names.pop(), start, len(segments)))
    if draw(st.booleans()):
        if variables and variables[-1].end == len(segments) and draw(st.booleans()):
            variables[-1] = Variable(variables[-1].field_path, variables[-1].start, None)
        elif names and draw(st.booleans()):
            variables.append(Variable(names.pop(), len(segments), None))
        segments.append(REST)
    verb = draw(st.one_of(st.just(""), LITERALS))
    return Template(tuple(segments), verb, tuple(variables))


@given(templates())
def test_printing_and_parsing_are_inverse(template: Template) -> None:
    assert Template.parse(str(template)) == template


@given(st.text(alphabet="/{}=*.:%aZ09_-~ ?", max_size=20))
def test_any_text_is_a_template_or_an_error_with_a_column(text: str) -> None:
    template = parsed(text)
    if isinstance(template, TemplateError):
        assert 1 <= template.column <= len(text) + 1
        assert f"column {template.column}" in str(template)
    else:
        assert Template.parse(str(template)) == template


def parsed(text: str) -> Template | TemplateError:
    try:
        return Template.parse(text)
    except TemplateError as error:
        return error


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("", 1, "expected '/', found 'the end'"),
        ("a", 1, "expected '/', found 'a'"),
        ("//", 2, "expected a segment, found '/'"),
        ("/a/", 4, "expected a segment, found 'the end'"),
        ("/{", 3, "expected a field name, found 'the end'"),
        ("/{a", 4, "expected '}', found 'the end'"),
        ("/{a=}", 5, "expected a segment, found '}'"),
        ("/{a={b}}", 5, "a variable must not contain another variable"),
        ("/{a}/{a}", 6, "field 'a' is bound twice"),
        ("/**/a", 5, "'**' must be the last segment"),
        ("/{a=**}/*", 9, "'**' must be the last segment"),
        ("/a:", 4, "expected a verb, found 'the end'"),
        ("/a:b:c", 5, "unexpected ':'"),
        ("/:a", 2, "expected a segment, found ':'"),
        ("/a b", 3, "unexpected ' '"),
        ("/%zz", 2, "expected a segment, found '%'"),
        ("/{1}", 3, "expected a field name, found '1'"),
        ("/{a.}", 5, "expected a field name, found '}'"),
    ],
)
def test_errors_say_what_and_where(text: str, column: int, problem: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse(text)
    assert (caught.value.column, caught.value.template) == (column, text)
    assert caught.value.problem.startswith(problem)


def test_the_root_is_a_template() -> None:
    assert str(Template.parse("/")) == "/"
    assert Template.parse("/").expand({}) == "/"


@given(st.text(min_size=1), st.text(alphabet="ab/%2Ff ü", min_size=1).filter(lambda text: "//" not in text))
def test_expanding_and_matching_are_inverse(single: str, rest: str) -> None:
    template = Template.parse("/v1/{single}/x/{rest=**}:verb")
    router: Router[str] = Router()
    router.add("GET", template, "target")
    match = router.match("GET", template.expand({"single": single, "rest": rest}))
    assert not isinstance(match, tuple)
    # In several segments an encoded slash is not decoded, and so comes back in its normal form.
    assert match.variables == {"single": single, "rest": rest.replace("%2f", "%2F")}


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("/{a}", {"a": ""}),
        ("/{a=x/*}", {"a": "y/1"}),
        ("/{a=x/*}", {"a": "x/1/2"}),
        ("/{a=x/*}", {"a": "x/"}),
        ("/{a=x/**}", {"a": ""}),
        ("/{a=x/y/**}", {"a": "x"}),
        ("/*", {}),
        ("/a/**", {}),
    ],
)
def test_values_that_do_not_fit_cannot_be_expanded(template: str, values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"fit|wildcard"):
        Template.parse(template).expand(values)


def test_a_value_that_is_missing_is_named() -> None:
    with pytest.raises(KeyError, match="a"):
        Template.parse("/{a}").expand({})
