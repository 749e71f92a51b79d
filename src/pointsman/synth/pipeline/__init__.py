"""`pointsman synth`: labelled conversations for somebody's own policies, written and checked by language models.

The steps are those of the Arch-Router paper (arXiv 2506.16655, section 4.1): topics become policies, which another
model checks; each policy gets intents, each intent a dialogue by another model, each dialogue a blind check; what
fails is written anew. Every answer is journalled before it is used, and what follows depends on nothing but the
answers, the seed and the plan: a run that was killed goes on by asking only for what is not in the journal.
"""
