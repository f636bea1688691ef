"""Reports of any number of nodes, written piece by piece: nobody holds the text of a whole cluster."""
