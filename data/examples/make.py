"""Write the example tasks beside this file: `python data/examples/make.py`. The same files each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Row = dict[str, Any]

# -- arithmetic: sums that a small model gets right sometimes, in NeMo Gym's schema ----------------------------------

SUMS = "3+2 4+1 6+2 8+7 5+5 7+7 9+4 6+8 9+9 3+8 7+4 2+9 8+5 6+6 12+5 14+3 21+6 33+4 18+7 25+9 11+11 24+13 40+30 46+38"
SUM_SHOTS = [(2, 5), (13, 4)]


def arithmetic() -> list[Row]:
    """24 rows: `responses_create_params.input` with two worked examples, `expected_answer`."""
    shots = [
        turn for a, b in SUM_SHOTS for turn in (_user(_sum(a, b)), _assistant(f"{a} + {b} = {a + b}\nAnswer: {a + b}"))
    ]
    rows = []
    for text in SUMS.split():
        a, b = map(int, text.split("+"))
        rows.append(
            {
                "responses_create_params": {"input": [*shots, _user(_sum(a, b))]},
                "expected_answer": str(a + b),
                "id": f"sum-{a}-{b}",
            }
        )
    return rows


def _sum(a: int, b: int) -> str:
    return f"What is {a} + {b}?"


# -- multiple_choice: easy general knowledge, as chat messages -------------------------------------------------------

CHOICE_SHOTS = """
What is the colour of blood? | Green, Blue, *Red, White | Blood is red.
Where do fish live? | *Water, Trees, Sky, Books | Fish live in water.
What do you wear on your feet? | Hat, Gloves, Glasses, *Shoes | You wear shoes on your feet.
What is the opposite of hot? | Tall, *Cold, Fast, Old | The opposite of hot is cold.
"""
CHOICES = """
What do bees make? | Milk, *Honey, Silk, Bread
Which animal barks? | Cat, *Dog, Cow, Bird
What colour is the sky on a clear day? | Green, *Blue, Red, Black
How many days are in a week? | Five, Six, *Seven, Ten
Which planet do we live on? | Mars, Venus, Jupiter, *Earth
What is frozen water called? | *Ice, Steam, Sand, Oil
What is the capital of France? | Rome, *Paris, Madrid, Berlin
Which of these is a fruit? | Carrot, *Apple, Potato, Onion
Which of these can fly? | Fish, Dog, *Eagle, Horse
What do we use to see? | Ears, Nose, *Eyes, Hands
Which season is the coldest? | Summer, *Winter, Spring, Autumn
What does a cow give us? | *Milk, Wool, Eggs, Honey
What is the opposite of up? | Left, *Down, Near, Wide
What do plants need to grow? | Salt, *Sunlight, Music, Paper
What is the capital of Italy? | *Rome, Paris, Madrid, London
Which animal has a long trunk? | *Elephant, Lion, Rabbit, Snake
How many legs does a spider have? | Four, Six, *Eight, Ten
What do we call a baby cat? | Puppy, *Kitten, Calf, Chick
Which metal is attracted by a magnet? | Gold, *Iron, Silver, Copper
What is the largest ocean? | Atlantic, Indian, *Pacific, Arctic
"""


def multiple_choice() -> list[Row]:
    """20 rows: `messages` with four worked examples, `options`, the letter of the right one as `expected_answer`, and
    in `grading_mode` where the answer stands."""
    shots = []
    for line in CHOICE_SHOTS.strip().splitlines():
        question, options, sentence = line.split(" | ")
        texts, right = _options(options)
        shots += [_user(_choice(question, texts)), _assistant(f"{sentence}\nAnswer: {texts[right]}")]
    rows = []
    for number, line in enumerate(CHOICES.strip().splitlines(), 1):
        question, options = line.split(" | ")
        texts, right = _options(options)
        rows.append(
            {
                "messages": [*shots, _user(_choice(question, texts))],
                "options": [{letter: text} for letter, text in zip("ABCD", texts, strict=True)],
                "expected_answer": "ABCD"[right],
                "grading_mode": "lenient_answer_colon",
                "id": f"choice-{number:02}",
            }
        )
    return rows


def _options(text: str) -> tuple[list[str], int]:
    options = text.split(", ")
    return [option.lstrip("*") for option in options], next(i for i, option in enumerate(options) if option[0] == "*")


def _choice(question: str, options: list[str]) -> str:
    return f"Options: {', '.join(options)}.\n{question}"


# -- needles: facts that must be searched for in a document that the model does not see -------------------------------

TOOL = {
    "type": "function",
    "name": "search_document",
    "description": "Search the document. Gives the best passage for a query.",
    "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}
STREET = """
Emma moved here from the north. Emma's house is yellow.
Frank is a teacher. Frank's house is blue.
Grace has three children. Grace's house is red.
Henry plays chess. Henry's house is brown.
Emma works in a hospital. Emma's age is 52.
Frank runs each morning. Frank's age is 37.
Grace paints in the evening. Grace's age is 45.
Henry fishes on Sundays. Henry's age is 63.
The town has one school and one station. The station was built in 1890.
Each summer there is a market in the town. The market sells bread and cheese.
Emma likes animals. Emma's pet is a rabbit.
Frank likes animals. Frank's pet is a parrot.
Grace likes animals. Grace's pet is a turtle.
Henry likes animals. Henry's pet is a goat.
"""
HARBOUR = """
The harbour lies at the mouth of the river. It freezes in some winters.
Oscar came to the harbour last year. Oscar's boat is white.
Paula repairs nets. Paula's boat is orange.
Simon has two brothers. Simon's boat is grey.
Tessa knows all the birds. Tessa's boat is purple.
Oscar sells his fish in the city. Oscar's fish is a trout.
Paula sells her fish on the quay. Paula's fish is a salmon.
Simon sells his fish to the inn. Simon's fish is a pike.
Tessa sells her fish to nobody. Tessa's fish is a carp.
The lighthouse has 140 steps. It was painted in May.
Oscar sails early. Oscar's berth is number 12.
Paula sails late. Paula's berth is number 31.
Simon sails with his dog. Simon's berth is number 27.
Tessa sails at night. Tessa's berth is number 48.
The inn at the harbour serves soup. It has nine rooms.
"""
FAIR = """
The fair takes place in October. Visitors come from five countries.
Lena bakes. Lena's stall sells cakes.
Marco grows flowers. Marco's stall sells roses.
Nora blows glass. Nora's stall sells lamps.
Victor binds books. Victor's stall sells maps.
Lena has a flag over her stall. Lena's flag is pink.
Marco has a flag over his stall. Marco's flag is green.
Nora has a flag over her stall. Nora's flag is black.
Victor has a flag over his stall. Victor's flag is silver.
The fair has a big wheel. A ride takes ten minutes.
Lena learned her trade in Spain. Lena's price is 8 coins.
Marco learned his trade at home. Marco's price is 15 coins.
Nora learned her trade from her aunt. Nora's price is 90 coins.
Victor learned his trade in a library. Victor's price is 24 coins.
A band plays on Saturday. The band has six players.
The car park is closed at night.
"""
WORKED = [
    (
        "What is the colour of Anna's car and Ben's car?",
        [
            ("Anna's car", "[4 of 9] Anna drives to work every day. Anna's car is green."),
            ("Ben's car", "[7 of 9] Ben lives in a small town. Ben's car is white."),
        ],
        "Anna's car is green. Ben's car is white.",
    ),
    (
        "What is the age of Carl and Dora?",
        [
            ("Carl's age", "[2 of 9] Carl works in a bakery. Carl's age is 41."),
            ("Dora's age", "[8 of 9] Dora likes music. Dora's age is 26."),
        ],
        "Carl's age is 41. Dora's age is 26.",
    ),
]
NEEDLES = [
    (STREET, "What is the colour of Emma's house and Frank's house?", ["yellow", "blue"]),
    (STREET, "What is the colour of Grace's house and Henry's house?", ["red", "brown"]),
    (STREET, "What is the age of Emma and Frank?", ["52", "37"]),
    (STREET, "What is the age of Grace and Henry?", ["45", "63"]),
    (STREET, "What is Emma's pet and Henry's pet?", ["rabbit", "goat"]),
    (STREET, "What is Frank's pet and Grace's pet?", ["parrot", "turtle"]),
    (HARBOUR, "What is the colour of Oscar's boat and Paula's boat?", ["white", "orange"]),
    (HARBOUR, "What is the colour of Simon's boat and Tessa's boat?", ["grey", "purple"]),
    (HARBOUR, "What is Oscar's fish and Simon's fish?", ["trout", "pike"]),
    (HARBOUR, "What is Paula's fish and Tessa's fish?", ["salmon", "carp"]),
    (HARBOUR, "What is the number of Oscar's berth and Tessa's berth?", ["12", "48"]),
    (FAIR, "What is the colour of Lena's flag and Victor's flag?", ["pink", "silver"]),
    (FAIR, "What is the colour of Marco's flag and Nora's flag?", ["green", "black"]),
    (FAIR, "What is Lena's price and Nora's price?", ["8", "90"]),
    (FAIR, "What is Marco's price and Victor's price?", ["15", "24"]),
    (FAIR, "What do Nora's stall and Victor's stall sell?", ["lamps", "maps"]),
]


def needles() -> list[Row]:
    """16 rows: a question, the search tool and two worked examples; the `document`; the facts as `expected_answer`."""
    shots = [item for number, worked in enumerate(WORKED) for item in _worked(number, *worked)]
    return [
        {
            "responses_create_params": {"input": [*shots, _user(question)], "tools": [TOOL]},
            "document": document.strip().splitlines(),
            "expected_answer": facts,
            "id": f"needle-{number:02}",
        }
        for number, (document, question, facts) in enumerate(NEEDLES, 1)
    ]


def _worked(number: int, question: str, found: list[tuple[str, str]], answer: str) -> list[Row]:
    """A worked example as Responses items: the question, both searches at once, what they found, the answer."""
    ids = [f"call_{number}{i}" for i in range(len(found))]
    asked = [
        {"type": "function_call", "call_id": id_, "name": TOOL["name"], "arguments": json.dumps({"query": query})}
        for id_, (query, _) in zip(ids, found, strict=True)
    ]
    told = [
        {"type": "function_call_output", "call_id": id_, "output": passage}
        for id_, (_, passage) in zip(ids, found, strict=True)
    ]
    return [_user(question), *asked, *told, _assistant(answer)]


def _user(text: str) -> Row:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


if __name__ == "__main__":
    for make in (arithmetic, multiple_choice, needles):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in make())
        (HERE / f"{make.__name__}.jsonl").write_text(text, encoding="utf-8")
