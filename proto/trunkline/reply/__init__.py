"""The two forms of an answer, a stream of events and the whole reply: check the one, fold and unfold between them."""

from trunkline.reply.folder import ReplyFolder, content_form_of, fold, merge_json
from trunkline.reply.grammar import GrammarChecker, GrammarError
from trunkline.reply.unfolding import unfold

__all__ = ["GrammarChecker", "GrammarError", "ReplyFolder", "content_form_of", "fold", "merge_json", "unfold"]
