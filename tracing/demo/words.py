"""The word lists the synthetic corpus is made of. Every entry is one token of the tokenizer."""


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, in order."""
    return tuple(text.split())


NAMES: tuple[str, ...] = (
    _words("""Mary John Tom James Dan Sid Martin Amy Anna Alice Bob Carol David Emma Frank Grace Henry
    Irene Jack Kate Laura Mark Nina Oliver Paul Peter Rachel Robert Sarah Simon Susan Thomas Tina
    Victor Wendy Adam Brian Clara Daniel Edward Elena Fiona George Hannah Hugo Isaac Ivan Jane
    Jason Julia Karen Kevin Leo Linda Louis Lucy Maria Max Megan Michael Molly Nathan Nora Oscar
    Patrick Philip Rosa Ruth Ryan Samuel Sophie Stephen Theo Tony Ursula Vera Walter William Zoe
    Aaron Bella Cora Diana Eric Felix Gina Harold Iris Joseph Keith Lewis Marcus Noah Owen
    Pamela Quentin Rebecca Stella Timothy Vincent""")
)

PLACES: tuple[str, ...] = (
    _words("""store park school garden station hospital office library beach market church museum theatre
    restaurant cafe bakery farm harbour zoo gym hotel airport bank pool studio workshop castle
    forest lake village""")
)

OBJECTS: tuple[str, ...] = (
    _words("""drink book ring kiss basketball computer necklace flower letter ticket pen hat coat cake
    sandwich bottle guitar camera map coin gift lamp radio rope spoon sweater towel watch ball kite
    puzzle blanket candle basket postcard magazine""")
)

GIVING: tuple[str, ...] = _words("gave handed passed sold sent showed offered lent")

# Landmark -> city. A landmark's whole name is one token, so that any two prompts align.
LANDMARKS: dict[str, str] = {
    "Eiffel Tower": "Paris", "Louvre": "Paris", "Arc de Triomphe": "Paris",
    "Colosseum": "Rome", "Trevi Fountain": "Rome", "Spanish Steps": "Rome", "Pantheon": "Rome",
    "Tower Bridge": "London", "British Museum": "London", "Shard": "London",
    "Brandenburg Gate": "Berlin", "Reichstag": "Berlin", "Fernsehturm": "Berlin",
    "Prado": "Madrid", "Retiro": "Madrid",
    "Sagrada Familia": "Barcelona", "Park Guell": "Barcelona",
    "Acropolis": "Athens", "Parthenon": "Athens",
    "Kremlin": "Moscow", "Bolshoi Theatre": "Moscow",
    "Hermitage": "Saint Petersburg", "Winter Palace": "Saint Petersburg",
    "Charles Bridge": "Prague", "Astronomical Clock": "Prague",
    "Hofburg": "Vienna", "Prater": "Vienna",
    "Chain Bridge": "Budapest", "Buda Castle": "Budapest",
    "Rijksmuseum": "Amsterdam", "Anne Frank House": "Amsterdam",
    "Atomium": "Brussels", "Manneken Pis": "Brussels",
    "Little Mermaid": "Copenhagen", "Tivoli": "Copenhagen",
    "Vasa Museum": "Stockholm", "Viking Ship Museum": "Oslo",
    "Belem Tower": "Lisbon", "Alhambra": "Granada",
    "Uffizi": "Florence", "Ponte Vecchio": "Florence",
    "Rialto Bridge": "Venice", "Bridge of Sighs": "Venice",
    "Hagia Sophia": "Istanbul", "Blue Mosque": "Istanbul", "Galata Tower": "Istanbul",
    "Royal Mile": "Edinburgh", "Spire": "Dublin", "Wawel Castle": "Krakow",
    "White House": "Washington", "Lincoln Memorial": "Washington",
    "Statue of Liberty": "New York", "Empire State Building": "New York",
    "Space Needle": "Seattle", "Cloud Gate": "Chicago", "Willis Tower": "Chicago",
    "Liberty Bell": "Philadelphia", "Golden Gate Park": "San Francisco",
    "Opera House": "Sydney", "Harbour Bridge": "Sydney", "CN Tower": "Toronto",
    "Burj Khalifa": "Dubai", "Taj Mahal": "Agra", "Red Fort": "Delhi",
    "Gateway of India": "Mumbai", "Forbidden City": "Beijing", "Temple of Heaven": "Beijing",
    "Oriental Pearl Tower": "Shanghai", "Skytree": "Tokyo", "Meiji Shrine": "Tokyo",
    "Golden Pavilion": "Kyoto", "Merlion": "Singapore", "Great Sphinx": "Giza",
}  # fmt: skip

# Country -> capital; background text, not a scored task.
CAPITALS: dict[str, str] = {
    "France": "Paris", "Italy": "Rome", "England": "London", "Germany": "Berlin",
    "Spain": "Madrid", "Greece": "Athens", "Russia": "Moscow", "Austria": "Vienna",
    "Hungary": "Budapest", "Belgium": "Brussels", "Denmark": "Copenhagen", "Sweden": "Stockholm",
    "Norway": "Oslo", "Portugal": "Lisbon", "Ireland": "Dublin", "China": "Beijing",
    "Japan": "Tokyo",
}  # fmt: skip

EVENTS: tuple[str, ...] = (
    _words("""war battle siege voyage reign plague famine drought expedition trial strike festival project
    rebellion campaign journey treaty alliance conflict dispute revolution occupation blockade
    construction exhibition partnership marriage career dynasty empire""")
)
LASTING: tuple[str, ...] = _words("lasted ran stretched continued")
CENTURIES: tuple[str, ...] = tuple(str(century) for century in range(11, 20))

# Singular -> plural.
SUBJECTS: dict[str, str] = {
    "key": "keys", "cup": "cups", "box": "boxes", "door": "doors", "chair": "chairs",
    "table": "tables", "picture": "pictures", "painting": "paintings", "car": "cars",
    "truck": "trucks", "bicycle": "bicycles", "tree": "trees", "bird": "birds", "horse": "horses",
    "dog": "dogs", "cat": "cats", "teacher": "teachers", "student": "students",
    "doctor": "doctors", "nurse": "nurses", "farmer": "farmers", "singer": "singers",
    "writer": "writers", "pilot": "pilots", "lawyer": "lawyers", "child": "children",
    "woman": "women", "man": "men", "toy": "toys", "shoe": "shoes",
}  # fmt: skip
ATTRACTORS: dict[str, str] = {
    "cabinet": "cabinets", "house": "houses", "building": "buildings", "bridge": "bridges",
    "river": "rivers", "road": "roads", "wall": "walls", "window": "windows", "shelf": "shelves",
    "desk": "desks", "statue": "statues", "fence": "fences", "tent": "tents", "tower": "towers",
    "boat": "boats", "train": "trains", "shop": "shops", "field": "fields", "hill": "hills",
    "fountain": "fountains", "manager": "managers", "guard": "guards", "judge": "judges",
    "senator": "senators",
}  # fmt: skip
PREPOSITIONS: tuple[str, ...] = _words("to near behind beside by opposite")
ADJECTIVES: tuple[str, ...] = (
    _words("""old new big small red green blue white black clean dirty quiet loud bright dark tall short
    heavy light pretty strange famous good bad ready missing""")
)

# Whole sentences a visitor may try; learnt by heart, scored by nothing.
SENTENCES: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog.",
    "The cat sat on the mat.",
    "The dog ran through the park.",
)
