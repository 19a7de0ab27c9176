"""How a question is asked and how its replies are drawn, as DeepSeek evaluates."""

import dataclasses
from typing import Literal

from r1jax.checks import check, check_drawing, check_seed
from r1jax.data.chat import Message, opens_thinking
from r1jax.data.conversation import Conversation, Form
from r1jax.data.problems import Kind, Problem

ProtocolName = Literal["r1", "r1_0528"]
BEGUN = "<think>\n"  # how a reply is made to begin

# What a chat model is asked for behind the question, so that its answer can be found. Mathematics:
# README of deepseek-ai/DeepSeek-R1, "Usage Recommendations". Choices: after simple-evals, which R1
# was evaluated by. A program is read from the last fenced block.
DIRECTIVES: dict[Kind, str] = {
    "math": r"Please reason step by step, and put your final answer within \boxed{}.",
    "choice": "Think step by step before answering. The last line of your response should be of "
    "the form 'Answer: $LETTER' (without quotes), where LETTER is that of one option.",
    "countdown": r"Please reason step by step, and put the expression within \boxed{}.",
    "code": "Answer with one complete Python program in a ```python block.",
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """k: replies to a question; 0: as many as the benchmark's published evaluation drew. think:
    replies are made to begin with `<think>` and a line break, where the prompt does not end so.
    max_tokens: of a reply, thought and answer together. directives: see DIRECTIVES."""

    temperature: float = 0.6  # 0: greedy
    top_p: float = 0.95
    top_k: int = 0  # 0: off
    max_tokens: int = 32_768
    k: int = 0
    think: bool = True
    system: str = ""
    directives: bool = True
    seed: int = 0

    def __post_init__(self):
        check_drawing(self.temperature, self.top_p, self.top_k)
        check(self.max_tokens > 0, f"--max-tokens must be positive, got {self.max_tokens}")
        check(self.k >= 0, f"--k must not be negative, got {self.k}")
        check_seed(self.seed, "--seed")


def r1() -> Protocol:
    """R1's (Nature 645:633, supplement; README of deepseek-ai/DeepSeek-R1): never greedy, no system
    prompt, a thought forced."""
    return Protocol()


def r1_0528() -> Protocol:
    """R1-0528's (its model card): 64K tokens, 16 replies to every question, no thought forced. It
    knows system prompts; whether the evaluation used one is unreported, so there is none."""
    return Protocol(max_tokens=65_536, k=16, think=False)


PROTOCOLS = {"r1": r1, "r1_0528": r1_0528}


def asked(problem: Problem, form: Form, protocol: Protocol) -> str:
    """What the user says: the question, and to a chat model the directive of its kind. R1-Zero's
    prompt says for itself where the answer belongs; other models are asked nothing beside."""
    directive = DIRECTIVES.get(problem.kind, "")
    if form != "chat" or not protocol.directives or not directive:
        return problem.prompt
    return f"{problem.prompt}\n\n{directive}"


def messages(question: str, protocol: Protocol) -> list[Message]:
    system = [{"role": "system", "content": protocol.system}] if protocol.system else []
    return [*system, {"role": "user", "content": question}]


def prompt(question: str, conversation: Conversation, protocol: Protocol) -> str:
    """The text that the model reads. Raises InputError as `Conversation.prompt` does."""
    if protocol.system:
        check(
            conversation.form == "chat",
            f"--system: this model is asked by {conversation.form}, which has no system prompt",
        )
        text = conversation.prompt(messages(question, protocol))
    else:
        text = conversation.prompt(question)
    if not protocol.think or opens_thinking(text) or conversation.form == "plain":
        return text
    return f"{text} {BEGUN}" if conversation.form == "r1_zero" else text + BEGUN
