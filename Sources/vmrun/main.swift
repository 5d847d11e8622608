print("vmrun")
