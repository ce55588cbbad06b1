"""embstore in other libraries: one module for each, imported by its own name.

    from embstore.integrations.langchain import CachedEmbeddings

Nothing is imported here, so that a library that is not installed is missed by nobody else.
"""
