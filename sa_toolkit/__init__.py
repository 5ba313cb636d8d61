"Make a protein language model aware of structure, and see what that did"

__version__ = '0.1.0'
